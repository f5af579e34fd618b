/* matmul.c - products of matrices.
 *
 * MatMul: Y[b..., m, n] = sum over k of A[b..., m, k] * B[b..., k, n], batch dimensions broadcast, a one-dimensional operand without
 * its outer axis. MatMulDot (octet) is the same over u8/i8 with i32 sums of raw products.
 * BlockProduct (octet) is the product of values that were rounded to 8 bits in blocks, A i8 [b..., blocks, size] with a scale for each, and weights in
 * blocks of codes, W (ir/blocks.h) with a scale and a zero point for each block and column, or for each column [1, N]:
 * Y = sum over blocks of (steps * sum a * w - zero * a_sum) * a_scale * w_scale / (127 * steps), a_sum that of the block's a. RoundedProduct rounds the
 * values, too: a block's largest magnitude, which is its a_scale, becomes 127.
 * Gemm becomes MatMul with alpha, beta and C around it: constant operands are transposed here (ex_swap), the rest folds.
 * Einsum is one reduction: the product of its operands at the indices that their letters name. */
#include "ir/blocks.h"
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include <ctype.h>
#include <string.h>

/* The shape of a numpy matmul of inputs ia and ib. */
bool infer_product(Infer *c, uint32_t ia, uint32_t ib)
{
    const Type *a = in_type(c, ia), *b = in_type(c, ib);
    if (a->rank < 0 || b->rank < 0) return out_unknown(c, 0);
    if (a->rank == 0 || b->rank == 0) return infer_error(c, "an operand is a scalar, expected a vector or a matrix");
    Dim out[MAX_RANK], one = DIM(c, 1);
    if (!require_eq(c, a->dim[a->rank - 1], b->dim[b->rank > 1 ? b->rank - 2 : 0], "inner dimensions")) return false;
    int ba = a->rank > 2 ? a->rank - 2 : 0, bb = b->rank > 2 ? b->rank - 2 : 0, batch = ba > bb ? ba : bb, n = 0;
    for (int i = 0; i < batch; i++) {
        int pa = i - (batch - ba), pb = i - (batch - bb);
        out[n] = dim_broadcast(c->d, pa < 0 ? one : a->dim[pa], pb < 0 ? one : b->dim[pb], c->loc);
        if (!dim_known(out[n++])) return infer_error(c, "batch dimensions do not broadcast");
    }
    if (a->rank > 1) out[n++] = a->dim[a->rank - 2];
    if (b->rank > 1) out[n++] = b->dim[b->rank - 1];
    return out_shape(c, 0, n, out);
}

static bool infer_matmul(Infer *c) { return infer_product(c, 0, 1); }

static void lower_product(Lower *l, DType acc)
{
    Kernel *k = l->k;
    int a = low_in(l, 0), b = low_in(l, 1), y = low_out(l, 0), ra = low_rank(l, a), rb = low_rank(l, b),
        rank = low_rank(l, y);
    int space[MAX_RANK], left[MAX_RANK + 1], right[MAX_RANK + 1], batch = rank - (ra > 1) - (rb > 1);
    low_axes(l, y, space);
    int depth = low_axis(l, low_dim(l, a, -1)), na = batch, nb = batch;
    memcpy(left, space, sizeof(int) * (size_t)batch), memcpy(right, space, sizeof(int) * (size_t)batch);
    if (ra > 1) left[na++] = space[batch];
    left[na++] = depth, right[nb++] = depth;
    if (rb > 1) right[nb++] = space[rank - 1];
    Expr x = expr_cast(k, acc, low_load_broadcast(l, a, left, na)),
         w = expr_cast(k, acc, low_load_broadcast(l, b, right, nb));
    low_reduce(l, y, space, rank, &depth, 1, P_add, expr_mul(k, x, w), low_store_as(l, y, expr_it(k, acc)));
}

static void lower_matmul(Lower *l) { lower_product(l, dtype_compute(low_type(l, low_in(l, 0)))); }
static void lower_matmul_dot(Lower *l) { lower_product(l, DT_i32); }

/* ---- BlockProduct ---- */
enum { MOST_CODE = 127 }; /* that a value becomes */

static bool check_columns(Infer *c, const Type *w, uint32_t i) /* of scales or zero points */
{
    const Type *p = in_type(c, i);
    if (p->rank != 2) return infer_error(c, "scales or zero points have rank %d, expected 2", p->rank);
    return require_eq(c, p->dim[1], w->dim[3], "columns") &&
           (dim_is(c->d, p->dim[0], 1) || require_eq(c, p->dim[0], w->dim[0], "numbers of blocks"));
}

static bool infer_blocks(Infer *c)
{
    const Type *a = in_type(c, 0), *w = in_type(c, 1);
    if (a->rank < 0) return out_unknown(c, 0);
    int64_t codes = 8 / node_int(c->n, "bits");
    if (a->rank < 2 || w->rank != 4)
        return infer_error(c, "A and W have rank %d and %d, expected at least 2, and 4", a->rank, w->rank);
    Dim out[MAX_RANK], size = dim_mul(c->d, w->dim[1], DIM(c, BLOCK_WORD * codes));
    memcpy(out, a->dim, sizeof out);
    out[a->rank - 2] = w->dim[3];
    return check_columns(c, w, 4) && check_columns(c, w, 5) &&
           rule_has_shape(c, 2, a->rank - 1, a->dim, "scales of values and blocks") &&
           rule_has_shape(c, 3, a->rank - 1, a->dim, "sums of values and blocks") &&
           require_eq(c, a->dim[a->rank - 2], w->dim[0], "numbers of blocks") &&
           require_eq(c, a->dim[a->rank - 1], size, "sizes of a block") && out_shape(c, 0, a->rank - 1, out);
}

static Expr of_column(Lower *l, uint32_t i, int block, int column) /* its scale or zero point */
{
    int buf = low_in(l, i);
    Expr first = expr_is(l->k, low_dim(l, buf, 0), 1) ? expr_index(l->k, 0) : expr_axis(l->k, block);
    return expr_load(l->k, buf, (Expr[MAX_RANK]){first, expr_axis(l->k, column)});
}

typedef struct BlockAxes {
    int block, word, code, byte; /* what is summed */
} BlockAxes;

/* steps * w, w counted from the least code as zero points are: codes without a sign, which all machines multiply with signed ones. */
static Expr block_weight(Lower *l, const BlockAxes *a, int column, int bits)
{
    Kernel *k = l->k;
    int w = low_in(l, 1);
    int64_t steps = node_int(l->n, "steps"), least = dtype_min(low_type(l, w));
    Expr at[MAX_RANK] = {expr_axis(k, a->block), expr_axis(k, a->word), expr_axis(k, a->byte), expr_axis(k, column)};
    Expr code = expr_cast(k, DT_i32, expr_load(k, w, at));
    Expr shift = expr_cast(k, DT_i32, expr_mul(k, expr_axis(k, a->code), expr_index(k, bits)));
    if (bits < 8)
        code = expr_prim(k, P_and, expr_prim(k, P_shr, code, shift, 0), expr_int(k, DT_i32, (1 << bits) - 1), 0);
    if (least) code = expr_add(k, code, expr_int(k, DT_i32, -least));
    return expr_mul(k, code, expr_int(k, DT_i32, steps));
}

static void lower_blocks(Lower *l)
{
    Kernel *k = l->k;
    int a = low_in(l, 0), w = low_in(l, 1), y = low_out(l, 0), rank = low_rank(l, y), n = rank - 1, space[MAX_RANK];
    int bits = (int)node_int(l->n, "bits"), codes = 8 / bits;
    low_axes(l, y, space);
    BlockAxes x = {.block = low_axis(l, low_dim(l, w, 0)), .word = low_axis(l, low_dim(l, w, 1))};
    x.code = low_axis(l, expr_index(k, codes)), x.byte = low_axis(l, expr_index(k, BLOCK_WORD));
    Expr row[MAX_RANK] = {0},
         word = expr_add(k, expr_mul(k, expr_axis(k, x.word), expr_index(k, codes)), expr_axis(k, x.code));
    low_index(l, space, n, row);
    row[n] = expr_axis(k, x.block);
    Expr scale = expr_mul(k, expr_load(k, low_in(l, 2), row), of_column(l, 4, x.block, space[n]));
    Expr sum = expr_load(k, low_in(l, 3), row), zero = expr_cast(k, DT_f32, of_column(l, 5, x.block, space[n]));
    Expr unit = expr_float(k, DT_f32, 1.0 / (double)(MOST_CODE * node_int(l->n, "steps")));
    row[n + 1] = expr_add(k, expr_mul(k, word, expr_index(k, BLOCK_WORD)), expr_axis(k, x.byte));
    Expr product = expr_mul(k, expr_cast(k, DT_i32, expr_load(k, a, row)), block_weight(l, &x, space[n], bits));
    Expr first = expr_prim(k, P_eq, row[n + 1], expr_index(k, 0), 0); /* once for each block */
    Expr taken = expr_prim(k, P_select, first, expr_mul(k, sum, zero), expr_float(k, DT_f32, 0));
    Expr term = expr_mul(k, expr_sub(k, expr_cast(k, DT_f32, product), taken), scale);
    low_reduce(l, y, space, rank, (int[]){x.block, x.word, x.code, x.byte}, 4, P_add, term,
               expr_mul(k, expr_it(k, DT_f32), unit));
}

static bool infer_rounded(Infer *c)
{
    const Type *x = in_type(c, 0), *w = in_type(c, 1);
    if (x->rank < 0) return out_unknown(c, 0);
    if (x->rank < 1 || w->rank != 4)
        return infer_error(c, "x and W have rank %d and %d, expected at least 1, and 4", x->rank, w->rank);
    Dim out[MAX_RANK];
    memcpy(out, x->dim, sizeof out);
    out[x->rank - 1] = w->dim[3];
    return check_columns(c, w, 2) && check_columns(c, w, 3) && out_shape(c, 0, x->rank, out);
}

static bool expand_rounded(Expand *x)
{
    Val a = x->in[0];
    const Type *w = ex_type(x, x->in[1]);
    Dims *d = x->m->dim;
    int rank = ex_type(x, a)->rank;
    int64_t last = -1, depth = 0, words = 0, shape[MAX_RANK + 1] = {0}, *pads = NEW_ARRAY(x->m->mem, int64_t, 2 * rank);
    bool known = rank < MAX_RANK && dim_is_const(d, dim_canon(d, ex_type(x, a)->dim[rank - 1]), &depth) &&
                 dim_is_const(d, w->dim[0], &shape[rank - 1]) && dim_is_const(d, w->dim[1], &words);
    if (!known) return expand_error(x, "values in blocks need a known depth");
    shape[rank] = words * BLOCK_WORD * 8 / node_int(x->n, "bits"),
    pads[2 * rank - 1] = shape[rank - 1] * shape[rank] - depth;
    if (pads[2 * rank - 1]) a = EX(x, "Pad", a, ex_ints(x, pads, 2 * rank));
    a = ex_reshape(x, a, shape, rank + 1);
    Val most = ex_reduce(x, "ReduceMax", EX(x, "Abs", a), &last, 1, true), codes = EX_OCTET(x, "QuantizeTo", a, most);
    Val sums = ex_cast(x, ex_reduce(x, "ReduceSum", ex_cast(x, codes, DT_i32), &last, 1, false), DT_f32);
    Val in[] = {codes, x->in[1], ex_squeeze(x, most, &last, 1), sums, x->in[2], x->in[3]};
    x->out[0] = ex_op_like(x, "octet", "BlockProduct", in, COUNT_OF(in));
    return true;
}

/* ---- Gemm ---- */
static bool infer_gemm(Infer *c)
{
    const Type *a = in_type(c, 0), *b = in_type(c, 1);
    if (a->rank < 0 || b->rank < 0) return out_unknown(c, 0);
    if (a->rank != 2 || b->rank != 2)
        return infer_error(c, "A and B have rank %d and %d, expected 2", a->rank, b->rank);
    bool ta = node_int(c->n, "transA"), tb = node_int(c->n, "transB");
    Dim out[2] = {a->dim[ta], b->dim[!tb]};
    return require_eq(c, a->dim[!ta], b->dim[tb], "inner dimensions") && out_shape(c, 0, 2, out);
}

static bool expand_gemm(Expand *x)
{
    double alpha = node_float(x->n, "alpha"), beta = node_float(x->n, "beta");
    DType t = ex_type(x, x->in[0])->dtype;
    Val a = x->in[0], b = x->in[1], c = ex_in(x, 2);
    if (node_int(x->n, "transA")) a = ex_swap(x, a);
    if (node_int(x->n, "transB")) b = ex_swap(x, b);
    if (alpha != 1 && ex_const(x, b)) b = EX(x, "Mul", b, ex_scalar(x, t, alpha)), alpha = 1;
    Val y = EX(x, "MatMul", a, b);
    if (alpha != 1) y = EX(x, "Mul", y, ex_scalar(x, t, alpha));
    if (c.id && beta != 0) {
        if (beta != 1) c = EX(x, "Mul", c, ex_scalar(x, t, beta));
        y = EX(x, "Add", y, c);
    }
    x->out[0] = y;
    return true;
}

/* ---- Einsum ---- */
enum { LETTERS = 256 }; /* dimensions under "..." are letters 1, 2, ..., counted from the last */
typedef struct Term {
    int n;
    unsigned char letter[MAX_RANK];
} Term;
typedef struct Equation {
    int inputs;
    Term in[24], out;
} Equation;

static const char *read_term(const char *s, int rank, Term *t)
{
    int letters = 0, dots = 0;
    const char *e = s;
    for (; *e && *e != ',' && strncmp(e, "->", 2); e++) {
        letters += isalpha((unsigned char)*e) != 0;
        dots += !strncmp(e, "...", 3);
    }
    int hidden = dots ? rank - letters : 0;
    if (dots > 1 || hidden < 0 || letters + hidden > MAX_RANK) return NULL;
    for (; s < e; s++) {
        if (isalpha((unsigned char)*s)) t->letter[t->n++] = (unsigned char)*s;
        else if (*s == '.') {
            for (int i = hidden; i > 0; i--) t->letter[t->n++] = (unsigned char)i;
            s += 2;
        } else if (!isspace((unsigned char)*s)) return NULL;
    }
    return rank >= 0 && t->n != rank ? NULL : e;
}

/* Without "->" the result has the hidden dimensions, then the letters that occur once, in alphabetical order. */
static void implicit_output(Equation *q, int hidden)
{
    for (int i = hidden; i > 0; i--) q->out.letter[q->out.n++] = (unsigned char)i;
    for (int ch = 'A'; ch <= 'z'; ch++) {
        int seen = 0;
        for (int i = 0; i < q->inputs; i++)
            for (int j = 0; j < q->in[i].n; j++) seen += q->in[i].letter[j] == ch;
        if (seen == 1 && q->out.n < MAX_RANK) q->out.letter[q->out.n++] = (unsigned char)ch;
    }
}

static bool read_equation(const char *s, const int *rank, int inputs, Equation *q)
{
    *q = (Equation){.inputs = inputs};
    int hidden = 0;
    for (int i = 0; i < inputs; i++) {
        const char *e = read_term(s, rank[i], &q->in[i]);
        if (!e || (i + 1 < inputs && *e != ',')) return false;
        for (int j = 0; j < q->in[i].n; j++)
            if (q->in[i].letter[j] <= MAX_RANK && q->in[i].letter[j] > hidden) hidden = q->in[i].letter[j];
        s = *e == ',' ? e + 1 : e;
    }
    if (strncmp(s, "->", 2)) {
        implicit_output(q, hidden);
        return *s == 0;
    }
    int letters = 0;
    bool dots = strstr(s + 2, "...") != NULL;
    for (const char *p = s + 2; *p; p++) letters += isalpha((unsigned char)*p) != 0;
    const char *e = read_term(s + 2, letters + (dots ? hidden : 0), &q->out);
    return e && *e == 0;
}

static bool node_equation(const Node *n, const Graph *g, Equation *q)
{
    int rank[24];
    if (n->nin > 24) return false;
    for (uint32_t i = 0; i < n->nin; i++) rank[i] = val_type(g, node_in(g, n, i))->rank;
    const char *text = node_str(n, "equation");
    return text && read_equation(text, rank, (int)n->nin, q);
}

static bool infer_einsum(Infer *c)
{
    for (uint32_t i = 0; i < c->n->nin; i++)
        if (in_rank(c, i) < 0) return out_unknown(c, 0);
    Equation q;
    if (!node_equation(c->n, c->g, &q))
        return infer_error(c, "equation '%s' does not fit the operands", node_str(c->n, "equation"));
    Dim size[LETTERS] = {{0}}, out[MAX_RANK];
    for (int i = 0; i < q.inputs; i++)
        for (int j = 0; j < q.in[i].n; j++) {
            Dim *s = &size[q.in[i].letter[j]], have = in_dim(c, (uint32_t)i, j);
            *s = dim_known(*s) ? dim_broadcast(c->d, *s, have, c->loc) : have;
            if (!dim_known(*s))
                return infer_error(c, "a letter of equation '%s' stands for different sizes",
                                   node_str(c->n, "equation"));
        }
    for (int i = 0; i < q.out.n; i++) {
        out[i] = size[q.out.letter[i]];
        if (!dim_known(out[i]))
            return infer_error(c, "the result of '%s' names a letter that no operand has", node_str(c->n, "equation"));
    }
    return out_shape(c, 0, q.out.n, out);
}

/* The size that a letter stands for: that of an operand where it is not broadcast. */
static Expr letter_size(Lower *l, const Equation *q, int letter)
{
    for (int i = 0; i < q->inputs; i++)
        for (int j = 0; j < q->in[i].n; j++) {
            Expr size = low_dim(l, low_in(l, (uint32_t)i), j);
            if (q->in[i].letter[j] == letter && !expr_is(l->k, size, 1)) return size;
        }
    return expr_index(l->k, 1);
}

static void lower_einsum(Lower *l)
{
    Kernel *k = l->k;
    Equation q;
    if (!node_equation(l->n, l->g, &q)) return; /* refused by infer */
    int axis[LETTERS] = {0}, space[MAX_RANK], reduce[LETTERS], reduces = 0, y = low_out(l, 0);
    DType acc = dtype_compute(low_type(l, y));
    for (int i = 0; i < q.out.n; i++) space[i] = axis[q.out.letter[i]] = low_axis(l, low_dim(l, y, i));
    Expr value = 0;
    for (int i = 0; i < q.inputs; i++) {
        int buf = low_in(l, (uint32_t)i);
        Expr index[MAX_RANK] = {0};
        for (int j = 0; j < q.in[i].n; j++) {
            int letter = q.in[i].letter[j];
            if (!axis[letter]) axis[letter] = reduce[reduces++] = low_axis(l, letter_size(l, &q, letter));
            bool one = expr_is(k, low_dim(l, buf, j), 1); /* broadcast */
            index[j] = one ? expr_index(k, 0) : expr_axis(k, axis[letter]);
        }
        Expr load = expr_cast(k, acc, expr_load(k, buf, index));
        value = value ? expr_mul(k, value, load) : load;
    }
    Expr it = low_store_as(l, y, reduces ? expr_it(k, acc) : value);
    if (reduces) low_reduce(l, y, space, q.out.n, reduce, reduces, P_add, value, it);
    else low_stage(l, y, space, q.out.n, it);
}

#define NUMBERS "float int uint"
const OpDef ops_matmul[] = {
    OP(MatMul, .since = 1, .sig = "A:T B:T -> Y:T", .T = NUMBERS, .infer = infer_matmul, .lower = lower_matmul,
       .quant = QUANT_INTEGER, .integer = "MatMulInteger", .w_channel = -1, .y_channel = -1, .x_input = -1,
       .w_input = -2),
    OP(Gemm, .since = 1, .sig = "A:T B:T C:T? -> Y:T", .T = NUMBERS,
       .attrs = "alpha:float=1 beta:float=1 transA:int=0 transB:int=0", .infer = infer_gemm, .expand = expand_gemm),
    OP(Einsum, .since = 12, .sig = "Inputs:T* -> Output:T", .T = NUMBERS, .attrs = "equation:string!",
       .infer = infer_einsum, .lower = lower_einsum),
    OP(MatMulDot, .domain = "octet", .since = 1, .sig = "A:T B:i8 -> Y:i32", .T = "u8 i8", .infer = infer_matmul,
       .lower = lower_matmul_dot, .quant = QUANT_SUMS),
    OP(BlockProduct, .domain = "octet", .since = 1,
       .sig = "A:i8 W:T a_scale:f32 a_sum:f32 w_scale:f32 w_zero:u8 -> Y:f32", .T = "u8 i8",
       .attrs = "bits:int=8 steps:int=1", .infer = infer_blocks, .lower = lower_blocks, .quant = QUANT_SUMS),
    OP(QuantizeTo, .domain = "octet", .since = 1, .sig = "x:f32 most:f32 -> y:i8",
       .body = "sat_i8(rint(x * select(most > 0, 127 / most, 0)))"),
    OP(RoundedProduct, .domain = "octet", .since = 1, .sig = "x:f32 W:T w_scale:f32 w_zero:u8 -> Y:f32", .T = "u8 i8",
       .attrs = "bits:int=8 steps:int=1", .infer = infer_rounded, .expand = expand_rounded),
    {0},
};
