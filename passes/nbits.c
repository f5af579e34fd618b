/* nbits.c - products with weights of 4 bits as com.microsoft.MatMulNBits, for who runs the model elsewhere: the operator that other engines
 * have kernels for.
 *
 * Comes in: a graph that will be written as a model. Goes out: the same, where a product whose right operand is a matrix of 4-bit codes behind a
 * DequantizeLinear in blocks along what is summed is one operator. Its codes lie column by column, each padded to whole blocks, two in
 * a byte, the lower half first; a signed code counts from 8, which is where its zero point is when none is given. */
#include "passes/passes.h"
#include <string.h>

enum { LEAST_BLOCK = 16, MIDDLE = 8, INT8_VALUES = 4 };

typedef struct Blocks { /* of weights [k][n] */
    const Tensor *code, *scale, *zero; /* zero NULL: the middle */
    int64_t k, n, block, blocks;
} Blocks;

static bool read_blocks(const Graph *g, const Node *n, Blocks *b)
{
    const Node *dq = node_is(n, "MatMul") ? val_def(g, node_in(g, n, 1)) : NULL;
    if (!dq || !node_is(dq, "DequantizeLinear")) return false;
    const Type *x = val_type(g, node_in(g, n, 0));
    *b = (Blocks){val_const(g, node_in(g, dq, 0)),
                  val_const(g, node_in(g, dq, 1)),
                  val_const(g, node_in(g, dq, 2)),
                  0,
                  0,
                  node_int(dq, "block_size"),
                  0};
    bool codes = b->code && b->code->rank == 2 && (b->code->type == DT_u4 || b->code->type == DT_i4);
    int64_t axis = node_int(dq, "axis");
    if (!codes || !b->scale || b->scale->type != DT_f32 || b->scale->rank != 2 || (node_in(g, dq, 2).id && !b->zero)) return false;
    b->k = b->code->dim[0], b->n = b->code->dim[1], b->blocks = b->scale->dim[0];
    bool power = b->block >= LEAST_BLOCK && !(b->block & (b->block - 1));
    return power && (axis == 0 || axis == -2) && x->dtype == DT_f32 && x->rank >= 2 && b->k > 0 && b->n > 0;
}

static int code_of(const Tensor *t, int64_t i) { return (int)dtype_load_int(t->type, t->data, i) + (t->type == DT_i4 ? MIDDLE : 0); }

/* Half i of row `row`. */
static void put_half(Tensor *t, int64_t row_bytes, int64_t row, int64_t i, int code)
{
    uint8_t *to = (uint8_t *)(uintptr_t)t->data + row * row_bytes + i / 2;
    *to = (uint8_t)(*to | code << i % 2 * 4);
}

static Val packed_product(Graph *to, const Node *n, const Blocks *b, Val x, const char *name, bool rounds)
{
    int64_t blob = b->block / 2, packed = (b->blocks + 1) / 2, all = b->n * b->blocks, zeros = b->n * packed;
    Tensor *code = tensor_new(to->mem, DT_u8, 3, (int64_t[]){b->n, b->blocks, blob}), *scale = tensor_new(to->mem, DT_f32, 1, &all);
    bool middle = !b->zero && b->code->type == DT_i4;
    Tensor *zero = middle ? NULL : tensor_new(to->mem, DT_u8, 1, &zeros);
    for (int64_t c = 0; c < b->n; c++) {
        for (int64_t k = 0; k < b->k; k++) put_half(code, b->blocks * blob, c, k, code_of(b->code, k * b->n + c));
        for (int64_t i = 0; i < b->blocks; i++) {
            ((float *)(uintptr_t)scale->data)[c * b->blocks + i] = ((const float *)b->scale->data)[i * b->n + c];
            if (zero && b->zero) put_half(zero, packed, c, i, code_of(b->zero, i * b->n + c));
        }
    }
    const OpDef *op = op_find("com.microsoft", "MatMulNBits");
    Attr *attr = op_attr_defaults(to->mem, op);
    attr_set_int(op, attr, "K", b->k), attr_set_int(op, attr, "N", b->n);
    attr_set_int(op, attr, "bits", 4), attr_set_int(op, attr, "block_size", b->block);
    if (rounds) attr_set_int(op, attr, "accuracy_level", INT8_VALUES);
    Val in[4] = {x, graph_const(to, code, name), graph_const(to, scale, NULL)};
    if (zero) in[3] = graph_const(to, zero, NULL);
    return graph_emit(to, op, attr, in, zero ? 4 : 3, 1, n->loc, NULL);
}

Graph *graph_nbits(const Graph *in, Arena *mem, bool rounds)
{
    Arena scratch = {0};
    Graph *out = graph_new(in->module, mem, in->name);
    Val *map = graph_begin(out, in, &scratch);
    const bool *live = graph_live(in, &scratch);
    for (uint32_t i = 0; i < in->node.n; i++) {
        const Node *n = &in->node.at[i];
        Blocks b;
        if (!live[i]) continue;
        if (!read_blocks(in, n, &b)) {
            graph_copy_node(out, in, i, map);
            continue;
        }
        const char *name = graph_val(in, node_in(in, val_def(in, node_in(in, n, 1)), 0))->name;
        map[n->out.id] = packed_product(out, n, &b, map[node_in(in, n, 0).id], name, rounds);
        graph_stand_for(out, map[n->out.id], graph_val(in, n->out));
    }
    graph_end(out, in, map);
    arena_drop(&scratch);
    return out;
}
