/* window.c - sliding windows: attributes in, sizes and index expressions out. See window.h.
 *
 * Sizes are Dims, so that auto_pad on sizes known only at run time needs no second path. */
#include "ir/ops/window.h"
#include <string.h>

static bool fail(const char **why, const char *text)
{
    *why = text;
    return false;
}

static bool read_ints(const Node *n, const char *name, int count, int64_t least, int64_t *to, int64_t fallback)
{
    uint32_t k = 0;
    const int64_t *v = node_ints(n, name, &k);
    if (k && k != (uint32_t)count) return false;
    for (int i = 0; i < count; i++) {
        to[i] = k ? v[i] : fallback;
        if (to[i] < least) return false;
    }
    return true;
}

static bool has_attr(const Node *n, const char *name) { return op_attr_index(n->op, name) >= 0; }

static bool read_kernel(Window *w, Dims *d, const Node *n, const Dim *kernel, const char **why)
{
    uint32_t k = 0;
    const int64_t *v = has_attr(n, "kernel_shape") ? node_ints(n, "kernel_shape", &k) : NULL;
    if (k && k != (uint32_t)w->n) return fail(why, "kernel_shape must have one entry a spatial dimension");
    if (!k && !kernel) return fail(why, "kernel_shape is missing");
    for (int i = 0; i < w->n; i++) {
        if (k && v[i] < 1) return fail(why, "kernel_shape must be positive");
        w->kernel[i] = kernel ? kernel[i] : dim_const(d, v[i]);
        int64_t have;
        if (k && kernel && dim_is_const(d, kernel[i], &have) && have != v[i])
            return fail(why, "kernel_shape differs from the dimensions of W");
    }
    return true;
}

static bool read_common(Window *w, Dims *d, const Node *n, const Type *x, const Dim *kernel, const char **why)
{
    w->n = x->rank - 2;
    if (w->n < 1 || w->n > MAX_SPATIAL)
        return fail(why, "the input needs a batch, a channel and 1 to 6 spatial dimensions");
    if (!read_kernel(w, d, n, kernel, why)) return false;
    if (!read_ints(n, "strides", w->n, 1, w->stride, 1))
        return fail(why, "strides must be positive, one a spatial dimension");
    for (int i = 0; i < w->n; i++) w->in[i] = x->dim[i + 2], w->dilation[i] = 1;
    if (has_attr(n, "dilations") && !read_ints(n, "dilations", w->n, 1, w->dilation, 1))
        return fail(why, "dilations must be positive, one a spatial dimension");
    return true;
}

static Dim reach(const Window *w, Dims *d, int i) /* (kernel - 1) * dilation + 1 */
{
    Dim one = dim_const(d, 1);
    return dim_add(d, dim_mul(d, dim_sub(d, w->kernel[i], one), dim_const(d, w->dilation[i])), one);
}

static bool read_pads(Window *w, Dims *d, const Node *n, const char **why)
{
    int64_t pads[2 * MAX_SPATIAL];
    if (!read_ints(n, "pads", 2 * w->n, INT64_MIN, pads, 0))
        return fail(why, "pads needs a begin and an end a spatial dimension");
    for (int i = 0; i < w->n; i++) w->lo[i] = dim_const(d, pads[i]), w->hi[i] = dim_const(d, pads[i + w->n]);
    return true;
}

static Dim count_windows(const Window *w, Dims *d, int i)
{
    Dim span = dim_sub(d, dim_add(d, w->in[i], dim_add(d, w->lo[i], w->hi[i])), reach(w, d, i));
    Dim s = dim_const(d, w->stride[i]), one = dim_const(d, 1);
    if (!w->ceil) return dim_add(d, dim_fdiv(d, span, s), one);
    Dim out = dim_add(d, dim_cdiv(d, span, s), one);
    /* A window that would begin in the padding after the input is dropped. */
    Dim start = dim_mul(d, dim_sub(d, out, one), s), end = dim_add(d, w->in[i], w->lo[i]);
    return dim_sub(d, out, dim_ge(d, start, end));
}

static void split_same(Window *w, Dims *d, int i, Dim total, bool upper)
{
    Dim two = dim_const(d, 2), half = dim_fdiv(d, total, two), rest = dim_sub(d, total, half);
    w->lo[i] = upper ? half : rest, w->hi[i] = upper ? rest : half;
}

bool window_read(Window *w, Dims *d, const Node *n, const Type *x, const Dim *kernel, const char **why)
{
    *w = (Window){0};
    if (!read_common(w, d, n, x, kernel, why)) return false;
    const char *mode = has_attr(n, "auto_pad") ? node_str(n, "auto_pad") : NULL;
    bool same = mode && !strncmp(mode, "SAME_", 5), valid = mode && !strcmp(mode, "VALID");
    w->ceil = has_attr(n, "ceil_mode") && node_int(n, "ceil_mode");
    Dim zero = dim_const(d, 0), one = dim_const(d, 1);
    for (int i = 0; i < w->n; i++) w->lo[i] = w->hi[i] = zero;
    if (!same && !valid && !read_pads(w, d, n, why)) return false;
    if (same) w->ceil = false;
    for (int i = 0; i < w->n; i++) {
        if (!same) {
            w->out[i] = count_windows(w, d, i);
            continue;
        }
        Dim s = dim_const(d, w->stride[i]);
        w->out[i] = dim_cdiv(d, w->in[i], s);
        Dim need = dim_add(d, dim_mul(d, dim_sub(d, w->out[i], one), s), reach(w, d, i));
        split_same(w, d, i, dim_max(d, dim_sub(d, need, w->in[i]), zero), !strcmp(mode, "SAME_UPPER"));
    }
    return true;
}

bool window_read_transposed(Window *w, Dims *d, const Node *n, const Type *x, const Dim *kernel, const char **why)
{
    *w = (Window){0};
    if (!read_common(w, d, n, x, kernel, why)) return false;
    const char *mode = node_str(n, "auto_pad");
    bool same = mode && !strncmp(mode, "SAME_", 5);
    int64_t extra[MAX_SPATIAL], shape[MAX_SPATIAL];
    if (!read_ints(n, "output_padding", w->n, 0, extra, 0))
        return fail(why, "output_padding needs one entry a spatial dimension");
    uint32_t given = 0;
    node_ints(n, "output_shape", &given);
    if (given > (uint32_t)w->n) return fail(why, "output_shape has more entries than spatial dimensions");
    if (given && !read_ints(n, "output_shape", w->n, 0, shape, 0))
        return fail(why, "output_shape needs one entry a spatial dimension");
    if (!read_pads(w, d, n, why)) return false;
    for (int i = 0; i < w->n; i++) {
        Dim one = dim_const(d, 1), s = dim_const(d, w->stride[i]);
        Dim full =
            dim_add(d, dim_mul(d, dim_sub(d, w->in[i], one), s), dim_add(d, reach(w, d, i), dim_const(d, extra[i])));
        if (!same && !given) {
            if (mode && !strcmp(mode, "VALID")) w->lo[i] = w->hi[i] = dim_const(d, 0);
            w->out[i] = dim_sub(d, full, dim_add(d, w->lo[i], w->hi[i]));
            continue;
        }
        w->out[i] = given ? dim_const(d, shape[i]) : dim_mul(d, w->in[i], s);
        split_same(w, d, i, dim_max(d, dim_sub(d, full, w->out[i]), dim_const(d, 0)),
                   mode && !strcmp(mode, "SAME_UPPER"));
    }
    return true;
}

Expr window_index(Lower *l, const Window *w, int i, int at, int tap)
{
    Kernel *k = l->k;
    Expr start = expr_mul(k, expr_axis(k, at), expr_index(k, w->stride[i]));
    Expr step = expr_mul(k, expr_axis(k, tap), expr_index(k, w->dilation[i]));
    return expr_sub(k, expr_add(k, start, step), expr_dim(k, w->lo[i]));
}

Expr window_inside(Lower *l, const Window *w, int i, Expr index)
{
    Kernel *k = l->k;
    Expr cond = 0;
    if (!dim_is(k->dim, w->lo[i], 0)) cond = expr_le(k, expr_index(k, 0), index);
    if (!dim_is(k->dim, w->hi[i], 0) || w->ceil) cond = expr_and(k, cond, expr_lt(k, index, expr_dim(k, w->in[i])));
    return cond;
}
