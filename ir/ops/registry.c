/* registry.c - the tables of rows. A new table is one line here and one in ops.h. */
#include "ir/ops/ops.h"

const OpDef *const op_tables[] = {
    ops_elementwise, ops_shape,    ops_index,  ops_reduce, ops_conv, ops_transposed, ops_matmul,
    ops_pool,        ops_norm,     ops_resize, ops_quant,  ops_rnn,  ops_microsoft,  ops_attention,
    ops_microsoft_attention, ops_nms, ops_region, ops_det, ops_winograd, ops_signal, ops_octet,  NULL,
};
