/* alike.c - constants that are each other's transpose are one.
 *
 * Comes in: the program as the operators lowered it. Goes out: the same program, in which of two large matrices with the same numbers, one
 * lying the other way round, one is left and read with its indices exchanged. Language models look words up in a table and end in a
 * product with its transpose, which is folded long before: the table is a fifth of a small one. The transpose may be said with more dimensions, in blocks
 * and words of codes: its rows are all but the last of them. Equal constants are one already
 * (ir/graph.c). A layout belongs to the product (layout.c); a look-up reads any. */
#include "codegen/analyse.h"

enum { LEAST_BYTES = 1 << 16 };

static bool is_large(const Buf *b, bool matrix)
{
    return b->kind == BUF_CONST && b->data && b->rank >= 2 && b->data->rank == b->rank && (b->rank == 2 || !matrix) &&
           !b->layout.n && tensor_bytes(b->data) >= LEAST_BYTES && dtypes[b->type].cls != DC_OTHER;
}

static int64_t rows_of(const Tensor *t)
{
    int64_t n = 1;
    for (int d = 0; d + 1 < t->rank; d++) n *= t->dim[d];
    return n;
}

static bool is_transpose(const Tensor *a, const Tensor *b) /* b: a matrix */
{
    int64_t rows = rows_of(a), columns = a->dim[a->rank - 1];
    size_t size = (size_t)dtypes[a->type].bytes;
    const char *x = a->data, *y = b->data;
    if (a->type != b->type || rows != b->dim[1] || columns != b->dim[0]) return false;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            if (memcmp(x + (size_t)(r * columns + c) * size, y + (size_t)(c * rows + r) * size, size)) return false;
    return true;
}

static Expr turned_load(Kernel *k, const ExprNode *load, int to)
{
    const Tensor *t = k->buf.at[to].data;
    Expr at[MAX_RANK] = {0}, row = load->arg[1];
    for (int d = t->rank - 2; d > 0; d--) {
        at[d] = expr_mod(k, row, expr_index(k, t->dim[d]));
        row = expr_div(k, row, expr_index(k, t->dim[d]));
    }
    at[0] = row, at[t->rank - 1] = load->arg[0];
    return expr_load(k, to, at);
}

/* Reads of `from` become reads of `to`, turned. */
static void turn_reads(Kernel *k, Compute *s, int from, int to)
{
    Arena scratch = {0};
    LoadList l = {0};
    stage_loads(k, &scratch, s, &l);
    for (uint32_t i = 0; i < l.at.n; i++) {
        ExprNode n = *expr_node(k, l.at.at[i]);
        if ((int)n.id == from) stage_replace(k, s, l.at.at[i], turned_load(k, &n, to));
    }
    arena_drop(&scratch);
}

void program_alike(Kernel *k)
{
    uint32_t bufs = k->buf.n;
    for (uint32_t a = 1; a < bufs; a++)
        for (uint32_t b = 1; b < bufs && is_large(&k->buf.at[a], false); b++) {
            bool first = k->buf.at[a].rank > 2 || a < b; /* of two matrices the later one is turned */
            if (!first || a == b || !is_large(&k->buf.at[b], true) ||
                !is_transpose(k->buf.at[a].data, k->buf.at[b].data))
                continue;
            for (uint32_t i = 0; i < k->stage.n; i++) turn_reads(k, &k->stage.at[i], (int)b, (int)a);
        }
}
