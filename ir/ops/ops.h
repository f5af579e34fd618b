/* ops.h - the tables of rows, one a file of this folder, each ended by {0}; registry.c lists them. */
#ifndef OCTET_OPS_H
#define OCTET_OPS_H
#include "ir/op.h"

extern const OpDef ops_elementwise[], ops_shape[], ops_index[], ops_reduce[], ops_conv[], ops_transposed[],
    ops_matmul[], ops_pool[], ops_norm[], ops_resize[], ops_rnn[], ops_quant[], ops_microsoft[], ops_attention[],
    ops_microsoft_attention[], ops_nms[], ops_region[], ops_det[], ops_winograd[], ops_signal[], ops_octet[];
#endif
