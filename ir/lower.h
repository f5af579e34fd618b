/* lower.h - what an operator row's `lower` uses: it appends stages to the program.
 *
 * A lowering reads its inputs as buffers of the program, makes axes, and appends stages; indices are logical (ONNX's
 * dimension order): layouts are chosen later. It must not fail: everything it needs was checked by `infer`. */
#ifndef OCTET_LOWER_H
#define OCTET_LOWER_H
#include "ir/kernel.h"
#include "ir/op.h"

struct Lower {
    Kernel *k;             /* the program */
    const Graph *g;
    const Node *n;
    const int *buf_of;     /* per Val: its buffer */
    Diag *diag;            /* for what a row cannot lower: lower_refuse */
    bool refused;
};

int low_in(const Lower *l, uint32_t i);                       /* buffer of input i; 0: absent */
int low_out(const Lower *l, uint32_t o);                      /* buffer of output o; outputs nobody reads have one too */
int low_rank(const Lower *l, int buf);
Expr low_dim(const Lower *l, int buf, int axis);              /* extent; axis may be negative */
DType low_type(const Lower *l, int buf);
int low_temp(Lower *l, DType t, int rank, const Expr *dim);   /* a temporary buffer */
int low_axis(Lower *l, Expr extent);                          /* a fresh axis */
void low_axes(Lower *l, int buf, int *axis);                  /* fresh axes over all dims of a buffer */
void low_index(Lower *l, const int *axis, int n, Expr *at);   /* axes as expressions */
Expr low_load_broadcast(Lower *l, int buf, const int *axis, int rank); /* numpy broadcast of buf to the space `axis` of `rank` axes */
/* Appends a stage storing to buf at its space axes (n of them = rank of buf) and returns it for more fields. The pointer is valid
 * until the next stage is appended. */
Compute *low_stage(Lower *l, int out, const int *space, int n, Expr value);
Compute *low_reduce(Lower *l, int out, const int *space, int n, const int *reduce, int nr, Prim how, Expr value, Expr epilogue);
Expr low_linear(Lower *l, int buf, const Expr *at);           /* row-major element number */
void low_delinear(Lower *l, int buf, Expr linear, Expr *at);  /* its inverse */
/* Elementwise: out[...] = body over the node's inputs (broadcast) and float/int attributes by name; f16 and bf16 compute in f32. */
void low_body(Lower *l, const char *body);
Expr low_const(Lower *l, DType t, double v);
void low_refuse(Lower *l, const char *fmt, ...) PRINTF_LIKE(2, 3); /* a blocker for the user: the model cannot be compiled */
int low_share(Lower *l);                                      /* a fresh number for Compute.share */
void low_channels_last(Lower *l, int buf);                    /* this buffer [N, C, spatial...] is walked pixel by pixel: prefer NHWC */

/* The whole graph: one program. buf_of receives the buffer of every Val; NULL: refused, all blockers reported. Graph inputs are
 * BUF_IN, outputs BUF_OUT, constants BUF_CONST, in that order of the graph. */
Kernel *lower_graph(const Graph *g, Arena *mem, int **buf_of);
/* demand.c: every stage's `when`. wanted: per buffer, where what it holds is wanted from outside, 1 for always; id 0: nowhere. */
void program_demand(Kernel *k, const Dim *wanted);
/* One node alone with constant inputs: the interpreter behind constant folding. NULL: it cannot. */
bool lower_eval(const Graph *g, const Node *n, Arena *mem, const Tensor **out);
#endif
