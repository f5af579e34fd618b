/* alike.c - constants that are each other's transpose are one.
 *
 * Comes in: the program as the operators lowered it. Goes out: the same program, in which of two large matrices with the same numbers, one
 * lying the other way round, one is left and read with its indices exchanged. Language models look words up in a table and end in a
 * product with its transpose, which is folded long before: the table is a fifth of a small one. Equal constants are one already
 * (ir/graph.c). A layout belongs to the product (layout.c); a look-up reads any. */
#include "codegen/analyse.h"

enum { LEAST_BYTES = 1 << 16 };

static bool is_large_matrix(const Buf *b)
{
    return b->kind == BUF_CONST && b->data && b->data->rank == 2 && b->rank == 2 && !b->layout.n &&
           tensor_bytes(b->data) >= LEAST_BYTES && dtypes[b->type].cls != DC_OTHER;
}

static bool is_transpose(const Tensor *a, const Tensor *b)
{
    int64_t rows = a->dim[0], columns = a->dim[1];
    size_t size = (size_t)dtypes[a->type].bytes;
    const char *x = a->data, *y = b->data;
    if (a->type != b->type || rows != b->dim[1] || columns != b->dim[0]) return false;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            if (memcmp(x + (size_t)(r * columns + c) * size, y + (size_t)(c * rows + r) * size, size)) return false;
    return true;
}

/* Reads of `from` become reads of `to`, turned. */
static void turn_reads(Kernel *k, Compute *s, int from, int to)
{
    Arena scratch = {0};
    LoadList l = {0};
    stage_loads(k, &scratch, s, &l);
    for (uint32_t i = 0; i < l.at.n; i++) {
        ExprNode n = *expr_node(k, l.at.at[i]);
        if ((int)n.id != from) continue;
        stage_replace(k, s, l.at.at[i], expr_load(k, to, (Expr[MAX_RANK]){n.arg[1], n.arg[0]}));
    }
    arena_drop(&scratch);
}

void program_alike(Kernel *k)
{
    uint32_t bufs = k->buf.n;
    for (uint32_t a = 1; a < bufs; a++)
        for (uint32_t b = a + 1; b < bufs && is_large_matrix(&k->buf.at[a]); b++) {
            if (!is_large_matrix(&k->buf.at[b]) || !is_transpose(k->buf.at[a].data, k->buf.at[b].data)) continue;
            for (uint32_t i = 0; i < k->stage.n; i++) turn_reads(k, &k->stage.at[i], (int)b, (int)a);
        }
}
