/* signal.c - Fourier transforms and windows.
 *
 * A transform of constant length is a product with a constant matrix, and a short-time transform a convolution with the same numbers, times the
 * window: contractions, which have panels and kernels already. What a fast transform saves in operations it loses in passes at the lengths of
 * speech (a few hundred). They are no weights, so that nothing makes codes of them: what follows is a logarithm as a rule, to which the quiet
 * parts of a spectrum matter as much as the loud ones. Source: ONNX, clauses of DFT, STFT and the windows. */
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include <assert.h>
#include <math.h>

static const double TURN = 6.283185307179586; /* 2 pi */
enum { MOST_LENGTH = 1 << 12 };               /* a matrix has the square of it, for each pair of parts */

/* ---- the numbers ---- */
typedef struct Transform {
    int64_t length;   /* points */
    int64_t in, out;  /* points that come in (more than length: ignored; fewer: zeros follow), and that go out */
    int64_t from, to; /* parts of a point: 1 real, 2 complex */
    bool inverse;
} Transform;

/* What part q of point k becomes of part p of point t. Real results of half a spectrum count its points twice, but for those that have no twin. */
static double transform_at(const Transform *x, int64_t t, int p, int64_t k, int q)
{
    if (t >= x->length) return 0;
    double angle = TURN * (double)(t * k % x->length) / (double)x->length * (x->inverse ? 1 : -1);
    bool half = x->inverse && x->to == 1, alone = t == 0 || 2 * t == x->length;
    double scale = (x->inverse ? 1.0 / (double)x->length : 1) * (half ? (2 * t > x->length ? 0 : alone ? 1 : 2) : 1);
    return scale * (p == q ? cos(angle) : p < q ? sin(angle) : -sin(angle));
}

/* length 0: as many points as come in, or as many as the half spectrum is of. */
static Transform transform_of(int64_t points, int64_t parts, int64_t length, bool inverse, bool half)
{
    Transform x = {.length = length, .in = points, .from = parts, .to = half && inverse ? 1 : 2, .inverse = inverse};
    if (!length) x.length = half && inverse && points <= MOST_LENGTH ? 2 * (points - 1) : points;
    x.out = half && !inverse ? x.length / 2 + 1 : x.length;
    return x;
}

/* ---- shapes ---- */
static bool one_int(Infer *c, uint32_t i, int64_t *v)
{
    const int64_t *is;
    uint32_t n;
    if (!in_has(c, i)) return true;
    if (!rule_ints(c, i, &is, &n) || n != 1) return infer_error(c, "input %u is not one constant (--freeze)", i);
    return *v = is[0], true;
}

static bool is_transform(Infer *c, const Transform *x, bool half)
{
    if (x->length < 1 || x->length > MOST_LENGTH)
        return infer_error(c, "a transform of %lld points, expected 1 to %d", (long long)x->length, (int)MOST_LENGTH);
    if (x->from != 1 && x->from != 2)
        return infer_error(c, "the last size is %lld, expected 1 (real) or 2 (complex)", (long long)x->from);
    if (half && x->from != (x->inverse ? 2 : 1))
        return infer_error(c, "onesided, of %s numbers", x->from == 1 ? "real" : "complex");
    return true;
}

static bool infer_dft(Infer *c)
{
    int axis, rank = in_rank(c, 0);
    int64_t at = -2, length = 0, points, parts;
    bool half = node_int(c->n, "onesided") != 0;
    Dim dim[MAX_RANK];
    if (rank < 0) return out_unknown(c, 0);
    if (rank < 2) return infer_error(c, "input has rank %d, expected 2 or more", rank);
    if (!one_int(c, 1, &length) || !one_int(c, 2, &at) || !in_axis(c, at, rank, &axis)) return false;
    if (axis == rank - 1) return infer_error(c, "axis %d is that of the parts of numbers", axis);
    if (!dim_is_const(c->d, in_dim(c, 0, axis), &points) || !dim_is_const(c->d, in_dim(c, 0, rank - 1), &parts))
        return infer_error(c, "the size of axis %d or of the last one is free (--dim)", axis);
    Transform x = transform_of(points, parts, length, node_int(c->n, "inverse") != 0, half);
    if (!is_transform(c, &x, half)) return false;
    for (int i = 0; i < rank; i++) dim[i] = in_dim(c, 0, i);
    dim[axis] = DIM(c, x.out), dim[rank - 1] = DIM(c, x.to);
    return out_shape(c, 0, rank, dim);
}

/* The signal is [batch][samples], or with parts of numbers behind them. */
static bool infer_stft(Infer *c)
{
    int rank = in_rank(c, 0);
    int64_t step = 0, length = 0, parts = 1;
    bool half = node_int(c->n, "onesided") != 0;
    if (rank < 0) return out_unknown(c, 0);
    if (rank != 2 && rank != 3) return infer_error(c, "signal has rank %d, expected 2 or 3", rank);
    if (!one_int(c, 1, &step) || !one_int(c, 3, &length)) return false;
    if (step < 1) return infer_error(c, "a frame_step of %lld", (long long)step);
    if (in_has(c, 2) && (in_rank(c, 2) != 1 || !dim_is_const(c->d, in_dim(c, 2, 0), &length)))
        return infer_error(c, "window has rank %d or a free size, expected one known size", in_rank(c, 2));
    if (rank == 3 && !dim_is_const(c->d, in_dim(c, 0, 2), &parts))
        return infer_error(c, "the last size of signal is free (--dim)");
    Transform x = transform_of(length, parts, length, false, half);
    if (!is_transform(c, &x, half) || !require_ge(c, in_dim(c, 0, 1), DIM(c, length), "a signal of one frame at least"))
        return false;
    Dim frames = dim_add(c->d, dim_fdiv(c->d, dim_sub(c->d, in_dim(c, 0, 1), DIM(c, length)), DIM(c, step)), DIM(c, 1));
    return out_shape(c, 0, 4, (Dim[]){in_dim(c, 0, 0), frames, DIM(c, x.out), DIM(c, 2)});
}

static bool infer_window(Infer *c)
{
    Dim n = rule_elem(c, 0, 0);
    if (in_rank(c, 0) > 1) return infer_error(c, "size has rank %d, expected a scalar", in_rank(c, 0));
    if (dim_known(n)) n = dim_max(c->d, n, DIM(c, 0)); /* as Range counts */
    if (!rule_type(c, 0, node_int(c->n, "output_datatype"))) return false;
    return dim_known(n) ? out_shape(c, 0, 1, &n)
                        : infer_error(c, "its size is known only when it has been computed (--freeze)");
}

/* ---- what they are made of ---- */
static int64_t int_of(const Expand *x, uint32_t i, int64_t fallback)
{
    const Tensor *t = ex_const(x, ex_in(x, i));
    return t ? dtype_load_int(t->type, t->data, 0) : fallback;
}

static int64_t size_of(const Expand *x, Val v, int axis)
{
    int64_t n = 0;
    bool known = dim_is_const(x->m->dim, ex_type(x, v)->dim[axis], &n);
    assert(known && "the shape rule asks for it");
    return (void)known, n;
}

/* Parts of points beside each other, [in][from] times [out][to], or as taps: [out][to], [from], [in]. */
static Val numbers_of(Expand *x, const Transform *f, DType type, bool apart)
{
    int64_t matrix[2] = {f->in * f->from, f->out * f->to}, taps[3] = {f->out * f->to, f->from, f->in};
    Tensor *t = apart ? tensor_new(x->m->mem, type, 3, taps) : tensor_new(x->m->mem, type, 2, matrix);
    for (int64_t i = 0; i < f->in; i++)
        for (int p = 0; p < f->from; p++)
            for (int64_t k = 0; k < f->out * f->to; k++) {
                int64_t at = apart ? (k * f->from + p) * f->in + i : (i * f->from + p) * matrix[1] + k;
                dtype_store(type, (void *)(uintptr_t)t->data, at, transform_at(f, i, p, k / f->to, (int)(k % f->to)));
            }
    return ex_tensor(x, t);
}

/* The last size becomes several. */
static Val split_last(Expand *x, Val v, int rank, int64_t a, int64_t b)
{
    int64_t dim[MAX_RANK] = {0}; /* 0: as it is */
    dim[rank - 1] = a, dim[rank] = b;
    return ex_reshape(x, v, dim, b ? rank + 1 : rank);
}

static bool expand_dft(Expand *x)
{
    Val v = ex_in(x, 0);
    int rank = ex_type(x, v)->rank, axis = (int)int_of(x, 2, -2);
    if (axis < 0) axis += rank;
    Transform f = transform_of(size_of(x, v, axis), size_of(x, v, rank - 1), int_of(x, 1, 0),
                               node_int(x->n, "inverse") != 0, node_int(x->n, "onesided") != 0);
    int64_t swap[MAX_RANK], dim[MAX_RANK] = {0};
    if (f.in > f.length) v = ex_slice(x, v, axis, 0, f.length), f.in = f.length;
    for (int i = 0; i < rank; i++) swap[i] = i;
    swap[axis] = rank - 2, swap[rank - 2] = axis;
    v = ex_transpose(x, v, swap, rank);
    dim[rank - 2] = f.in * f.from;
    Val by[2] = {ex_reshape(x, v, dim, rank - 1), numbers_of(x, &f, ex_type(x, v)->dtype, false)};
    v = ex_op(x, NULL, "Einsum", (AttrSet[]){SET_STR("equation", "...i,io->...o")}, 1, by, 2);
    x->out[0] = ex_transpose(x, split_last(x, v, rank - 1, f.out, f.to), swap, rank);
    return true;
}

static bool expand_stft(Expand *x)
{
    static const int64_t swapped[] = {0, 2, 1}, between = 1;
    Val v = ex_in(x, 0), window = ex_in(x, 2);
    const Type *t = ex_type(x, v);
    bool real = t->rank == 2;
    int64_t length = window.id ? size_of(x, window, 0) : int_of(x, 3, 0), step = int_of(x, 1, 1);
    Transform f = transform_of(length, real ? 1 : size_of(x, v, 2), length, false, node_int(x->n, "onesided") != 0);
    Val w = numbers_of(x, &f, t->dtype, true);
    if (window.id) w = EX(x, "Mul", w, window);
    v = real ? ex_unsqueeze(x, v, &between, 1) : ex_transpose(x, v, swapped, 3);
    v = ex_op(x, "octet", "ConvFloat", (AttrSet[]){SET_INTS("strides", &step, 1)}, 1, (Val[]){v, w}, 2);
    x->out[0] = split_last(x, ex_transpose(x, v, swapped, 3), 3, f.out, f.to);
    return true;
}

/* a - b cos(turn) + c cos(2 turn), all sizes in between being one turn; not periodic: one less is. */
static bool expand_cosines(Expand *x, double a, double b, double c)
{
    DType out = (DType)node_int(x->n, "output_datatype"), t = DT_f64;
    Val size = ex_cast(x, ex_in(x, 0), DT_i64), zero = ex_scalar(x, DT_i64, 0), one = ex_scalar(x, DT_i64, 1);
    if (ex_type(x, size)->rank == 1) size = EX(x, "Squeeze", size);
    Val turns = node_int(x->n, "periodic") ? size : EX(x, "Max", EX(x, "Sub", size, one), one);
    Val at = EX(x, "Mul", ex_cast(x, EX(x, "Range", zero, size, one), t), ex_scalar(x, t, TURN));
    at = EX(x, "Div", at, ex_cast(x, turns, t));
    Val y = EX(x, "Sub", ex_scalar(x, t, a), EX(x, "Mul", EX(x, "Cos", at), ex_scalar(x, t, b)));
    if (c != 0) y = EX(x, "Add", y, EX(x, "Mul", EX(x, "Cos", EX(x, "Add", at, at)), ex_scalar(x, t, c)));
    x->out[0] = ex_cast(x, y, out);
    return true;
}

static bool expand_hann(Expand *x) { return expand_cosines(x, 0.5, 0.5, 0); }
static bool expand_hamming(Expand *x) { return expand_cosines(x, 25.0 / 46, 1 - 25.0 / 46, 0); }
static bool expand_blackman(Expand *x) { return expand_cosines(x, 0.42, 0.5, 0.08); }

/* clang-format off */
#define WINDOW(name, how) \
    OP(name, .since = 17, .sig = "size:T -> output:U", .T = "i32 i64", .U = "int float", .attrs = "output_datatype:int=1 periodic:int=1", \
       .infer = infer_window, .expand = how)
const OpDef ops_signal[] = {
    OP(DFT, .since = 17, .sig = "input:T dft_length:U? axis:i64? -> output:T", .T = "float", .U = "i32 i64",
       .attrs = "inverse:int=0 onesided:int=0", .infer = infer_dft, .expand = expand_dft),
    OP(STFT, .since = 17, .sig = "signal:T frame_step:U window:T? frame_length:U? -> output:T", .T = "float", .U = "i32 i64",
       .attrs = "onesided:int=1", .infer = infer_stft, .expand = expand_stft),
    WINDOW(HannWindow, expand_hann),
    WINDOW(HammingWindow, expand_hamming),
    WINDOW(BlackmanWindow, expand_blackman),
    {0},
};
/* clang-format on */
