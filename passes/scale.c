/* scale.c - rules for what stands between an integer sum and the next quantizer, so that an epilogue is a conversion, one multiplication
 * and one addition for each operand, and a rounding:
 *
 *     sat(rint(max((f32(sum + i) * s + b) + d, 0) * r) + z)   becomes   sat(rint(f32(sum) * s' + b') + z)
 *
 * Quantizers multiply by the reciprocal of their scale, constants gather, that factor goes into them, and what saturation does anyway (Relu, Clip) goes. Multiplications and
 * additions stay separate operations, so every instruction set computes the same bits. The last bit may differ from the graph before;
 * that is why only the compiler's own quantization, which has no reference to the bit, runs this pass. */
#include "passes/integer.h"
#include "passes/passes.h"
#include "passes/rewrite.h"
#include <math.h>

static const Tensor *constant(const Match *m, const char *name) { return graph_val(m->in, match_old(m, name))->konst; }

static double number(const Match *m, const char *name)
{
    return dtype_load(constant(m, name)->type, constant(m, name)->data, 0);
}

static bool is_one(const Match *m, const char *name)
{
    return tensor_count(constant(m, name)) == 1 && number(m, name) == 1;
}

/* A positive factor that is not 1 yet, and a constant zero point. */
static bool has_factor(const Match *m)
{
    const Tensor *s = constant(m, "s");
    return tensor_count(s) == 1 && s->type == DT_f32 && number(m, "s") > 0 && !is_one(m, "s");
}

static DType quantized_type(const Match *m) { return val_type(m->in, match_root(m)->out)->dtype; }

/* What is below lo becomes the least code, what is above hi the greatest: saturation does the same. */
static bool saturates(const Match *m, double lo, double hi)
{
    const Tensor *s = constant(m, "s"), *z = constant(m, "z");
    if (tensor_count(s) != 1 || tensor_count(z) != 1 || !(number(m, "s") > 0)) return false;
    DType t = quantized_type(m);
    float r = (float)number(m, "s");
    double zero = number(m, "z"), least = rint((double)((float)lo * r)) + zero,
           most = rint((double)((float)hi * r)) + zero;
    return least <= (double)dtype_min(t) && most >= (double)dtype_max(t);
}

/* The same of a QuantizeLinear, where what is clipped is no table of codes. */
static bool clipped_by_codes(const Match *m, double lo, double hi)
{
    const Tensor *s = constant(m, "s"), *z = match_old(m, "z").id ? constant(m, "z") : NULL;
    const Node *x = match_node(m, "x");
    if (tensor_count(s) != 1 || !(number(m, "s") > 0) || (match_old(m, "z").id && (!z || tensor_count(z) != 1))) return false;
    DType t = quantized_type(m);
    double scale = number(m, "s"), zero = z ? number(m, "z") : 0, least = rint((double)((float)(lo / scale))) + zero,
           most = rint((double)((float)(hi / scale))) + zero;
    return !dtype_is_float(t) && !(x && node_is(x, "DequantizeLinear")) && least <= (double)dtype_min(t) && most >= (double)dtype_max(t);
}

static bool relu_by_codes(const Match *m) { return clipped_by_codes(m, 0, INFINITY); }
static bool clip_by_codes(const Match *m)
{
    return tensor_count(constant(m, "lo")) == 1 && tensor_count(constant(m, "hi")) == 1 &&
           clipped_by_codes(m, number(m, "lo"), number(m, "hi"));
}

static bool relu_saturates(const Match *m) { return saturates(m, 0, INFINITY); }

static bool clip_saturates(const Match *m)
{
    return tensor_count(constant(m, "lo")) == 1 && tensor_count(constant(m, "hi")) == 1 &&
           saturates(m, number(m, "lo"), number(m, "hi"));
}

/* Does a factor disappear in this value: a product with a constant, a dequantized tensor, or a sum with one, that only we read? */
static bool takes_factor(const Match *m, Val v)
{
    const Value *val = graph_val(m->in, v);
    if (val->konst) return true;
    if (val->def == NO_NODE) return false;
    const Node *n = &m->in->node.at[val->def];
    if (node_is(n, "DequantizeLinear")) return true;
    if (m->uses[v.id] != 1 || !(node_is(n, "Mul") || node_is(n, "Add"))) return false;
    for (uint32_t i = 0; i < 2; i++)
        if (graph_val(m->in, node_in(m->in, n, i))->konst) return true;
    return node_is(n, "Add") && (takes_factor(m, node_in(m->in, n, 0)) || takes_factor(m, node_in(m->in, n, 1)));
}

static bool is_float(const Match *m) { return val_type(m->in, match_root(m)->out)->dtype == DT_f32; }
static bool is_variable(const Match *m, const char *name) { return !constant(m, name); }
static bool turns(const Match *m) { return is_variable(m, "x"); }
static bool sum_takes(const Match *m)
{
    return takes_factor(m, match_old(m, "x")) || takes_factor(m, match_old(m, "y"));
}
static bool factor_into_sum(const Match *m) { return has_factor(m) && sum_takes(m); }
static bool factor_over_sum(const Match *m)
{
    return is_float(m) && tensor_count(constant(m, "d")) == 1 && sum_takes(m);
}
static bool is_scalar_factor(const Match *m)
{
    return is_float(m) && tensor_count(constant(m, "d")) == 1 && tensor_count(constant(m, "s")) == 1;
}

static bool from_integer(const Match *m) { return is_float(m) && val_type(m->in, match_old(m, "x"))->dtype == DT_i32; }

/* QuantizeBy(x, s, z) as QuantizeBy(x * s, 1, z): the product then finds its constants. */
static Val factor_out(Match *m)
{
    const Node *root = match_root(m);
    Val from = node_in(m->in, root, 0);
    const Loc *loc = m->in->node.at[graph_val(m->in, from)->def].loc; /* it stays part of what is quantized */
    Val x = emit(m->out, "Mul", loc, 2, m->map[from.id], match_new(m, "s"));
    Val in[3] = {x, graph_const(m->out, tensor_scalar(m->out->mem, DT_f32, 1), NULL), match_new(m, "z")};
    return graph_emit(m->out, root->op, root->attr, in, 3, 1, root->loc, NULL);
}

static Val factor_of_product(Match *m) { return has_factor(m) ? factor_out(m) : (Val){0}; }
static Val factor_of_sum(Match *m) { return factor_into_sum(m) ? factor_out(m) : (Val){0}; }

/* clang-format off */
const Rule rules_saturation[] = {
    {"relu-by-codes", "q@QuantizeLinear(!Relu(x), #s, z?)",            "QuantizeLinear@q(x, s, z)", relu_by_codes, NULL},
    {"clip-by-codes", "q@QuantizeLinear(!Clip(x, #lo, #hi), #s, z?)",  "QuantizeLinear@q(x, s, z)", clip_by_codes, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
const Rule rules_scale[] = {
    {"constant-last-add", "Add(#c, x)",                                "Add(x, c)",                             turns,            NULL},
    {"constant-last-mul", "Mul(#c, x)",                                "Mul(x, c)",                             turns,            NULL},
    {"relu-saturates",    "octet.QuantizeBy(!Relu(x), #s, #z)",        "octet.QuantizeBy(x, s, z)",             relu_saturates,   NULL},
    {"clip-saturates",    "octet.QuantizeBy(!Clip(x, #lo, #hi), #s, #z)", "octet.QuantizeBy(x, s, z)",           clip_saturates,   NULL},
    {"quantize-mul",      "octet.QuantizeBy(!Mul(x, #c), #s, #z)",     NULL,                                    NULL,             factor_of_product},
    {"quantize-add",      "octet.QuantizeBy(!Add(x, y), #s, #z)",      NULL,                                    NULL,             factor_of_sum},
    {"mul-mul",           "Mul(!Mul(x, #c), #d)",                      "Mul(x, Mul(c, d))",                     is_float,         NULL},
    {"mul-sum",           "Mul(!Add(x, y), #d)",                       "Add(Mul(x, d), Mul(y, d))",             factor_over_sum,  NULL},
    {"mul-channels",      "Mul(!Add(!Mul(x, #a), #c), #d)",            "Add(Mul(x, Mul(a, d)), Mul(c, d))",     is_float,         NULL},
    {"mul-dequantized",   "Mul(q@DequantizeLinear(x, #s, z?), #d)",    "DequantizeLinear@q(x, Mul(s, d), z)",   is_scalar_factor, NULL},
    {"add-add",           "Add(!Add(!Mul(x, #s), #c), #d)",            "Add(Mul(x, s), Add(c, d))",             is_float,         NULL},
    {"integer-bias",      "Mul(!k@Cast(!Add(x, #c)), #s)",             "Add(Mul(Cast@k(x), s), Mul(Cast@k(c), s))", from_integer, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
/* clang-format on */

Graph *pass_scale(const Graph *in, PassCtx *ctx) { return rewrite(integer_factors(in, ctx), ctx, rules_scale, NULL); }
