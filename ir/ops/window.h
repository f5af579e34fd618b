/* window.h - the geometry of sliding windows: kernel, stride, dilation and padding of Conv, ConvTranspose and the pools, read
 * once from a node's attributes for its shape rule and again for its lowering. */
#ifndef OCTET_OPS_WINDOW_H
#define OCTET_OPS_WINDOW_H
#include "ir/lower.h"
#include "ir/op.h"

enum { MAX_SPATIAL = MAX_RANK - 2 };
#define WINDOW_ATTRS "auto_pad:string=NOTSET dilations:ints kernel_shape:ints pads:ints strides:ints "

#define QLINEAR_CONV "x:T x_scale:f32 x_zero_point:T w:U w_scale:f32 w_zero_point:U y_scale:f32 y_zero_point:V B:i32? -> y:V"

typedef struct Window {
    int n; /* spatial dimensions */
    Dim in[MAX_SPATIAL], out[MAX_SPATIAL], kernel[MAX_SPATIAL], lo[MAX_SPATIAL], hi[MAX_SPATIAL];
    int64_t stride[MAX_SPATIAL], dilation[MAX_SPATIAL];
    bool ceil; /* the last window may overrun the padding */
} Window;

/* Fills everything; kernel: sizes from the weights, or NULL to take kernel_shape. why: what is wrong, NULL when all is well. */
bool window_read(Window *w, Dims *d, const Node *n, const Type *x, const Dim *kernel, const char **why);
/* The same for ConvTranspose, where `in` is the smaller side. */
bool window_read_transposed(Window *w, Dims *d, const Node *n, const Type *x, const Dim *kernel, const char **why);
/* Where window `at` (space axis) and tap `tap` (reduce axis) look: at * stride + tap * dilation - lo. */
Expr window_index(Lower *l, const Window *w, int i, int at, int tap);
/* The condition that this index lies inside the input; 0 where it always does. */
Expr window_inside(Lower *l, const Window *w, int i, Expr index);
/* conv.c: do the channels divide into groups; is input i, a bias, as long as there are channels? Both report. */
bool window_groups(Infer *c, Dim channels, Dim per_group, int64_t group);
bool window_bias(Infer *c, uint32_t i, Dim channels);
#endif
