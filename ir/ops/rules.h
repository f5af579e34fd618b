/* rules.h - what the shape rules and lowerings of ir/ops have in common: sizes known as elements of a tensor, moved and
 * computed element by element, and the few index expressions that many operators need. */
#ifndef OCTET_OPS_RULES_H
#define OCTET_OPS_RULES_H
#include "ir/lower.h"
#include "ir/op.h"

/* ---- shape rules ---- */
const Dim *rule_elems(Infer *c, uint32_t i, uint32_t *n); /* as in_elems, also whole numbers held as floats */
const Dim *rule_sizes(Infer *c, uint32_t i, uint32_t *n); /* the same for an input that says sizes: computed ones are symbols */
bool rule_ints(Infer *c, uint32_t i, const int64_t **v, uint32_t *n);   /* all elements are constants */
bool rule_known(Infer *c, uint32_t i);                                  /* absent, or all elements are constants */
bool rule_axes(Infer *c, uint32_t i, int rank, int *axis, uint32_t *n); /* different axes, known; reports */
Dim rule_elem(Infer *c, uint32_t i, uint32_t at); /* one element, unknown when it is not a known size */
int64_t type_count(const Dims *d, const Type *t); /* elements, -1 when not a constant */
/* Elements of output o are those of input i at from[]; nothing happens when the input's elements are not known. */
bool rule_move(Infer *c, uint32_t o, uint32_t i, const int64_t *from, uint32_t n);
/* The element of a tensor of type t that broadcasting puts at element `flat` of a tensor of type out; both of constant
 * sizes. */
int64_t broadcast_from(const Dims *d, const Type *out, const Type *t, int64_t flat);
bool tracks_values(DType t); /* elements of this type are followed as sizes */
/* Input i, where it is given, lies along the last dimensions of a tensor of type t: each of its sizes is 1 or that one; reports. */
bool rule_lies_along(Infer *c, uint32_t i, const Type *t, const char *why);
bool rule_has_shape(Infer *c, uint32_t i, int rank, const Dim *dim,
                    const char *why); /* the same for all of its sizes, none of them free to be 1 */
bool rule_type(Infer *c, uint32_t o, int64_t code); /* output o has the element type that an attribute says */
bool rule_qlinear_conv(Infer *c, const Type *x, Dim *out); /* sizes of a QLinearConv of such an image, channels second; reports */
/* Shape and, with the row's value column, elements of an elementwise operator. */
bool infer_elementwise(Infer *c);
bool infer_same(Infer *c); /* every output has the dims of input 0 */
/* For value columns. */
Dim value_max(Dims *d, DType t, const Dim *a, uint32_t n), value_min(Dims *d, DType t, const Dim *a, uint32_t n);
Dim value_sum(Dims *d, DType t, const Dim *a, uint32_t n);
Dim dim_product(Dims *d, const Dim *dim, int n);

/* ---- lowerings ---- */
const Dim *low_elems(const Lower *l, uint32_t i, uint32_t *n); /* elements of input i as sizes; NULL: not all known */
bool low_ints(const Lower *l, uint32_t i, const int64_t **v,
              uint32_t *n);                                    /* constant elements; false: absent or not constant */
int low_attr_axis(const Lower *l, const char *attr, int rank); /* an axis attribute, not negative */
Expr low_scalar(Lower *l, uint32_t i);                         /* the one element of input i, at its own type */
Expr low_load(Lower *l, int buf, const Expr *at);              /* at the type arithmetic is done in */
Expr low_store_as(Lower *l, int buf, Expr value);              /* value converted to the buffer's type */
Expr low_select(Lower *l, Expr cond, Expr a, Expr b);
Expr low_i64(Lower *l, Expr e);
/* A formula of the scalar language (IR.md) over arg[i], which it names name[i]; a text that does not parse is a bug. */
Expr low_formula(Lower *l, const char *text, const char *const *name, const Expr *arg, int n);
/* A copy stage: out[axes over out] = in[at]. */
Compute *low_move(Lower *l, int out, const int *axis, int in, const Expr *at);
/* An index as ONNX gives it (negative counts from the end) made positive; *check gets the condition that it is in
 * range, and-ed. */
Expr low_wrap_index(Lower *l, Expr index, Expr size, Expr *check);
bool low_sized(Lower *l); /* false: a result's size depends on data that is no element the model can read; refused */
const Type *low_in_type(const Lower *l, uint32_t i);
const Type *low_out_type(const Lower *l, uint32_t o);
#endif
