/* winograd.c - float convolutions of stride 1 become octet.ConvWinograd where the cost model (ir/winograd.h) says that it pays.
 *
 * Runs last: whatever folds into weights has done so, and what is computed in integers is no Conv any more. Each convolution that
 * changes is tried on one tile of made-up data, once by the operator's own lowering and once directly in f64; the report names the
 * largest difference. Products are what the policy makes them (f32, bf16), and so is what they cost; nodes that it keeps multiply f32. */
#include "passes/winograd.h"
#include "ir/kernel.h"
#include "ir/ops/window.h"
#include "ir/winograd.h"
#include "passes/passes.h"
#include "passes/rewrite.h"
#include <math.h>

enum { SAMPLED = 4 }; /* output channels of the tile that is tried */

static int64_t known(const Dims *d, Dim dim)
{
    int64_t v;
    return dim_is_const(d, dim, &v) ? v : -1;
}

static DType product_of(const WinogradNote *note, const Node *n)
{
    bool kept = note->keep && n->loc && n->loc->node && !regexec(note->keep, n->loc->node, 0, NULL, 0);
    return kept ? DT_f32 : note->product;
}

/* Stride and dilation 1, one group, known padding: what the operator can do. */
static bool fits(const Match *m, const Node *n, const Tensor *w, WinogradShape *s, int64_t *pad)
{
    Dims *d = m->in->module->dim;
    Window win;
    const char *why = NULL;
    const Type *x = val_type(m->in, node_in(m->in, n, 0)), *y = val_type(m->in, n->out);
    Dim kernel[2];
    if (w->type != DT_f32 || w->rank != 4 || x->rank != 4 || node_int(n, "group") != 1) return false;
    for (int i = 0; i < 2; i++) kernel[i] = dim_const(d, w->dim[i + 2]);
    if (!window_read(&win, d, n, x, kernel, &why)) return false;
    for (int i = 0; i < 2; i++) {
        if (win.stride[i] != 1 || win.dilation[i] != 1) return false;
        if (!dim_is_const(d, win.lo[i], &pad[i]) || !dim_is_const(d, win.hi[i], &pad[i + 2])) return false;
        if (pad[i] < 0 || pad[i + 2] < 0) return false;
    }
    *s = (WinogradShape){w->dim[1], w->dim[0], w->dim[2], w->dim[3], known(d, y->dim[2]), known(d, y->dim[3]),
                         product_of(m->ctx->winograd, n)};
    return s->taps_y * s->taps_x > 1 && s->taps_y <= WINOGRAD_TAPS && s->taps_x <= WINOGRAD_TAPS;
}

static Val emit_winograd(Graph *g, WinogradPair f, const int64_t *pad, const Val *in, uint32_t n, const Loc *loc)
{
    const OpDef *op = op_find("octet", "ConvWinograd");
    Attr *attr = op_attr_defaults(g->mem, op);
    attr_set_ints(op, attr, "outputs", (int64_t[]){f.y->outputs, f.x->outputs}, 2);
    attr_set_ints(op, attr, "pads", pad, 4);
    return graph_emit(g, op, attr, in, n, 1, loc, NULL);
}

/* ---- the error of one tile ---- */
static float next_sample(uint64_t *state) /* in [-1, 1), the same in every run */
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 11) / (double)((uint64_t)1 << 52) - 1);
}

static double direct(const Tensor *w, const Tensor *x, int64_t o, int64_t i, int64_t j)
{
    double sum = 0;
    for (int64_t c = 0; c < w->dim[1]; c++)
        for (int64_t y = 0; y < w->dim[2]; y++)
            for (int64_t z = 0; z < w->dim[3]; z++)
                sum += (double)((const float *)w->data)[((o * w->dim[1] + c) * w->dim[2] + y) * w->dim[3] + z] *
                       (double)((const float *)x->data)[(c * x->dim[2] + i + y) * x->dim[3] + j + z];
    return sum;
}

static double tile_error(const Match *m, WinogradPair f, DType product, const Tensor *w, const Loc *loc)
{
    static const int64_t none[4];
    uint64_t state = 1;
    Graph *g = graph_new(m->in->module, m->scratch, "tile");
    Tensor few = *w,
           *x = tensor_new(m->scratch, DT_f32, 4, (int64_t[]){1, w->dim[1], winograd_points(f.y), winograd_points(f.x)});
    if (few.dim[0] > SAMPLED) few.dim[0] = SAMPLED;
    for (int64_t i = 0; i < tensor_count(x); i++) dtype_store(DT_f32, (void *)x->data, i, float_round(product, next_sample(&state)));
    Val in[2] = {graph_const(g, x, NULL), graph_const(g, winograd_filter(m->scratch, f, &few, product), NULL)};
    const Tensor *y = graph_val(g, emit_winograd(g, f, none, in, 2, loc))->konst;
    double worst = 0, largest = 0;
    for (int64_t i = 0; y && i < tensor_count(y); i++) {
        int64_t col = i % y->dim[3], row = i / y->dim[3] % y->dim[2], o = i / y->dim[3] / y->dim[2];
        double want = direct(&few, x, o, row, col);
        worst = fmax(worst, fabs((double)((const float *)y->data)[i] - want)), largest = fmax(largest, fabs(want));
    }
    return largest > 0 ? worst / largest : 0;
}

static Val winograd(Match *m)
{
    const Node *n = match_root(m);
    Val w = match_old(m, "w"), b = match_old(m, "b");
    const Tensor *weights = graph_val(m->in, w)->konst;
    WinogradShape s;
    WinogradPair f;
    int64_t pad[4];
    if (!fits(m, n, weights, &s, pad)) return (Val){0};
    m->ctx->winograd->of++;
    if (!winograd_choose(&s, &f)) return (Val){0};
    m->ctx->winograd->convs++;
    m->ctx->winograd->error = fmax(m->ctx->winograd->error, tile_error(m, f, s.product, weights, n->loc));
    Val in[3] = {match_new(m, "x"), graph_const(m->out, winograd_filter(m->out->mem, f, weights, s.product), graph_val(m->in, w)->name)};
    if (b.id) in[2] = match_new(m, "b");
    return emit_winograd(m->out, f, pad, in, b.id ? 3 : 2, n->loc);
}

static const Rule rules[] = {
    {"winograd", "Conv(x, #w, b?)", NULL, NULL, winograd},
    {NULL, NULL, NULL, NULL, NULL},
};

Graph *pass_winograd(const Graph *in, PassCtx *ctx) { return rewrite(in, ctx, rules, NULL); }
