/* words.c - images of few channels, a first layer's, in whole words.
 *
 * Comes in: the program when values have the types they are stored in (store.c, split.c), halos added. Goes out: the same program, where the few
 * channels of an image that is multiplied in words lie side by side, and zeros fill them up to whole words; the weights have zeros there, too.
 *
 * Narrow floats alone need it. The last word of a window's row would hold a neighbour, of which a zero weight makes nothing unless it is
 * infinite: so tile registers cannot read it, and vectors put such words together from elements. Integers may read what they like.
 *
 * The image is a copy anyway, or the result of a formula, and whoever makes it stores the zeros with the channels. */
#include "codegen/analyse.h"
#include <string.h>

enum { FEW_CHANNELS = 8, PARTIAL_WORD = 2 }; /* what a partial word costs, in whole ones */

typedef struct Few { /* channels of an image under a product */
    int buf, dim, axis, weights_dim;
    int64_t channels, filled;
    ExprNode image, weights;
} Few;

static int dim_of(const Kernel *k, const ExprNode *load, int axis) /* where the axis alone is the index; -1: nowhere, or elsewhere too */
{
    int at = dim_of_axis(k, load, axis);
    return at >= 0 && axis_of_index(k, load->arg[at]) == axis ? at : -1;
}

static bool is_channels_last(const Buf *b, int dim)
{
    return b->layout.n == b->rank && b->layout.axis[b->rank - 1].dim == dim && b->layout.axis[b->rank - 1].size == 0;
}

/* Words of a row of the window: as long as the image has its columns innermost, and with whole words of channels. */
static bool saves_words(Kernel *k, const Compute *s, const Few *f, int word)
{
    int64_t taps = 1;
    int last = k->buf.at[f->buf].rank - 1, column = f->dim == last ? last - 1 : last;
    for (int i = 0; i < s->reduces; i++)
        if (expr_uses(k, f->image.arg[column], s->reduce[i]))
            taps = expr_constant(k, k->axis.at[s->reduce[i]].extent, 1);
    int64_t rest = taps % word ? PARTIAL_WORD : 0;
    return taps * f->filled / word <= f->channels * (taps / word + rest);
}

/* Does the product sum words of few channels? */
static bool few_channels(Kernel *k, const Compute *s, Few *f)
{
    Contraction c;
    if (!contraction_of(k, s, &c) || c.acc != DT_f32) return false;
    int word = word_of(k, &c);
    f->image = *expr_node(k, c.left), f->weights = *expr_node(k, c.right);
    if (!word || f->image.kind != E_LOAD || !is_constant_load(k, c.right) || !k->buf.at[f->weights.id].data)
        return false;
    const Buf *b = &k->buf.at[f->image.id], *w = &k->buf.at[f->weights.id];
    f->buf = (int)f->image.id, f->dim = -1;
    for (int i = 0; i < s->reduces && f->dim < 0; i++) {
        f->axis = s->reduce[i], f->dim = dim_of(k, &f->image, f->axis),
        f->weights_dim = dim_of(k, &f->weights, f->axis);
        f->channels = expr_constant(k, k->axis.at[f->axis].extent, 0);
        if (f->channels < 2 || f->channels >= FEW_CHANNELS || f->weights_dim < 0) f->dim = -1;
    }
    if (f->dim < 0 || b->kind != BUF_TMP || b->rank < 3 || w->layout.n || w->rank != w->data->rank) return false;
    if (w->data->dim[f->weights_dim] != f->channels || !(b->layout.n == 0 || is_channels_last(b, f->dim))) return false;
    f->filled = (f->channels + word - 1) / word * word;
    return saves_words(k, s, f, word);
}

/* ---- the image ---- */
/* The stage stores all channels, each point by a formula of its own. */
static bool can_fill(Kernel *k, const Compute *s, const Few *f)
{
    if (s->how || s->scan || s->update || s->where || s->keep || s->check) return false;
    int axis = axis_of_index(k, s->at[f->dim]);
    for (int d = 0; d < k->buf.at[s->out].rank; d++)
        if (d != f->dim && axis && expr_uses(k, s->at[d], axis)) return false;
    return axis && expr_is(k, k->axis.at[axis].extent, f->channels);
}

static bool can_fill_all(Kernel *k, const Few *f)
{
    if (!expr_is(k, k->buf.at[f->buf].dim[f->dim], f->channels)) return false;
    for (uint32_t i = 0; i < k->stage.n; i++)
        if (k->stage.at[i].out == f->buf && !can_fill(k, &k->stage.at[i], f)) return false;
    return true;
}

static void fill_image(Kernel *k, Compute *s, const Few *f)
{
    int was = axis_of_index(k, s->at[f->dim]), axis = kernel_axis(k, NULL, expr_index(k, f->filled));
    Expr zero = expr_cast(k, k->buf.at[f->buf].type, expr_float(k, DT_f32, 0)), channel = expr_axis(k, axis);
    stage_rename(k, s, was, axis);
    if (s->value != zero) s->value = expr_guard(k, expr_lt(k, channel, expr_index(k, f->channels)), s->value, zero);
}

static void lay_image(Kernel *k, const Few *f)
{
    Buf *b = &k->buf.at[f->buf];
    b->layout = (Layout){.n = b->rank};
    for (int d = 0, n = 0; d < b->rank; d++)
        if (d != f->dim) b->layout.axis[n++] = (LayoutAxis){d, 1, 0};
    b->layout.axis[b->rank - 1] = (LayoutAxis){f->dim, 1, 0};
    if (f->filled == f->channels) return;
    b->dim[f->dim] = expr_index(k, f->filled);
    for (uint32_t i = 0; i < k->stage.n; i++)
        if (k->stage.at[i].out == f->buf) fill_image(k, &k->stage.at[i], f);
}

/* ---- the product ---- */
static int filled_weights(Kernel *k, const Few *f)
{
    Buf b = k->buf.at[f->weights.id];
    const Tensor *from = b.data;
    int64_t dim[MAX_RANK], inside = dtypes[from->type].bytes, outside = 1;
    memcpy(dim, from->dim, sizeof dim);
    for (int d = 0; d < from->rank; d++) {
        if (d < f->weights_dim) outside *= dim[d];
        if (d > f->weights_dim) inside *= dim[d];
    }
    dim[f->weights_dim] = f->filled;
    Tensor *to = tensor_new(k->mem, from->type, from->rank, dim);
    for (int64_t i = 0; i < outside; i++)
        memcpy((char *)(void *)to->data + i * f->filled * inside, (const char *)from->data + i * f->channels * inside,
               (size_t)(f->channels * inside));
    b.name = arena_printf(k->mem, "%s.filled", b.name), b.data = to, b.dim[f->weights_dim] = expr_index(k, f->filled);
    return kernel_buf(k, b);
}

static void fill_product(Kernel *k, Compute *s, const Few *f)
{
    Expr weights = expr_load(k, (int)f->weights.id, f->weights.arg);
    s->value = expr_replace(k, s->value, weights, expr_load(k, filled_weights(k, f), f->weights.arg));
    stage_rename(k, s, f->axis, kernel_axis(k, NULL, expr_index(k, f->filled)));
}

void program_fill_words(Kernel *k)
{
    Arena scratch = {0};
    int64_t *filled = NEW_ARRAY(&scratch, int64_t, k->buf.n); /* per buffer: the channels that were filled up, or 0 */
    uint32_t bufs = k->buf.n;
    for (uint32_t i = 0; i < k->stage.n; i++) {
        Few f;
        if (!few_channels(k, &k->stage.at[i], &f) || f.buf >= (int)bufs) continue;
        if (!filled[f.buf] && can_fill_all(k, &f)) lay_image(k, &f), filled[f.buf] = f.channels;
        if (filled[f.buf] == f.channels && f.filled > f.channels) fill_product(k, &k->stage.at[i], &f);
    }
    arena_drop(&scratch);
}
