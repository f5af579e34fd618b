/* analyse.h - what clustering, layout and tuning ask about formulas. */
#ifndef OCTET_ANALYSE_H
#define OCTET_ANALYSE_H
#include "codegen/codegen.h"

/* An index as base + sum of by * atom; atoms are axes, sizes, or whatever is not linear. */
enum { LIN_TERMS = 16 };
typedef struct Lin { bool ok; int n; int64_t base; Dim size; struct { Expr atom; int64_t by; } term[LIN_TERMS]; } Lin;
Lin lin_of(Kernel *k, Expr e);                               /* ok false: too many terms */
bool lin_differ(Kernel *k, Expr a, Expr b, int64_t *by);     /* a - b is the constant *by */

typedef struct LoadList { VEC(Expr) at; } LoadList;          /* distinct loads, in order of appearance */
void loads_of(Kernel *k, Arena *mem, Expr e, LoadList *l);
void stage_loads(Kernel *k, Arena *mem, const Compute *c, LoadList *l);
void stage_replace(Kernel *k, Compute *c, Expr from, Expr to); /* in all its expressions */
int axis_of_index(const Kernel *k, Expr e);                  /* the axis e is, or 0 */
bool is_constant_load(const Kernel *k, Expr e);
bool layout_equal(const Layout *a, const Layout *b);
bool stage_is_plain(const Compute *c);                       /* only a value: no reduction, check, condition, scan, update or keep */
void stage_rename(Kernel *k, Compute *s, int from, int to);  /* an axis becomes another of the same extent */
bool stage_has_axis(const Compute *s, int a);
bool stage_writes(const Kernel *k, const Compute *s, int buf); /* its result, or what it keeps */
bool stage_at_axes(const Kernel *k, const Compute *c);       /* at[] are distinct axes and all of the space */
bool depends_on_data(const Kernel *k, Expr e);               /* loads, or is of a sum's result */
bool stage_places(Kernel *k, const Compute *c);              /* at[] and where are said by axes and sizes alone, not by data */
bool stage_is_window(Kernel *k, const Compute *c);           /* reduces what lies under a window that moves with its results */
int64_t expr_constant(const Kernel *k, Expr e, int64_t otherwise);
int rows_apart(Kernel *k, Expr at, int line, int row);       /* by how many rows a line moves the address; 0: by no known, whole number */
bool step_is(Kernel *k, Expr at, int axis, int64_t n);       /* moves the axis the index by n? */
int dim_of_axis(const Kernel *k, const ExprNode *load, int axis); /* the one dimension whose index uses the axis; -1: there is none, or several */
int innermost_dim(const Buf *b);                             /* the dimension whose elements lie side by side; -1 for scalars */

/* Is an element read more than once: because an axis does not choose it, or under overlapping windows? */
bool is_rereading(Kernel *k, const Compute *c, Expr load, bool reduced);
void spread_order(Kernel *k);                                /* layout.c: layouts spread along stages that work point by point */

/* Codes of fewer bits than a byte, several in each: (byte >> shift) & mask. */
typedef struct InByte { Expr shift; int64_t mask; } InByte;  /* mask 0: a byte is one code */
/* What a sum of products adds up: a * b, or codes in blocks, (f32(i32(a) * i32(b) * steps) - select(first == 0, sum * zero, 0)) * scale: the scale, the zero
 * point, and what the block's values sum to, stay the same through the inner loops of the sum, the first point of which takes the zero point's part:
 * integers are summed there. */
typedef struct Summand {
    Expr a, b;               /* without casts to the type they are multiplied in; of codes in blocks loads, b those of weights */
    DType acc;
    Expr scale, zero;        /* f32, of codes in blocks; else 0. zero 0: none */
    Expr sum, first;         /* where there is one: an f32, and an index */
    int64_t steps;
    InByte packed;
} Summand;
Expr uncast(const Kernel *k, Expr e, DType acc);             /* e without a cast to acc around it */
bool summand_of(const Kernel *k, Expr value, Summand *f);    /* false: it is no product */
bool chooses_block(const Kernel *k, const Summand *f, int axis); /* of codes: does it move the scale, the zero point or the values' sum? */

/* A sum of products. left varies along rows, right along lanes. */
typedef struct Contraction {
    Expr left, right;        /* without casts to the accumulator's type */
    int lane, row;           /* space axes: lane moves only right, row only left; row 0: there is none */
    DType acc;
    Expr scale, zero;        /* of codes in blocks (Summand); the first axes that are summed may choose them, the others do not */
    bool few_bits;           /* these are 4 or 2 */
    int64_t terms;           /* of a block */
} Contraction;
bool contraction_of(Kernel *k, const Compute *c, Contraction *r);
/* How many neighbours along the summed axis one lane of a dot product takes: 32 bits of them. 0: such factors have none. */
int word_of(const Kernel *k, const Contraction *r);
DType sum_type(const Kernel *k, const Contraction *r);       /* of right where it is multiplied: signed codes in blocks are counted from the least */
/* How many values that a sum takes from a factor lie side by side. */
int64_t summed_run(Kernel *k, const Compute *c, Expr factor);
enum { LEAST_RUN = 24 }; /* of values, for their sum to be made in lanes */
/* Few columns leave most lanes of a panel empty: a sum of its own for each, its terms in lanes, may take fewer steps. Not where one instruction
 * sums words, of so many values. */
bool fills_panels(Kernel *k, const Compute *c, const Contraction *r, int word);
/* Do both factors of a float sum have their terms side by side, and right its columns apart? Terms in lanes then need no panels of it. */
enum { DOTS = 16 }; /* terms that are summed at once */
bool has_terms_beside(Kernel *k, const Compute *c, const Contraction *r);
int64_t piece_of(Kernel *k, Expr e, int axis);               /* e uses the axis in pieces alone, axis / n: yields n, else 1; 0: not at all. Several heads of queries share keys */
/* From how many rows on panels of right pay: to copy it takes about as long as to add up the lanes of half as many rows as a sum has terms. Rows of
 * batches that share it count together. */
int64_t panel_rows(Kernel *k, const Compute *c, const Contraction *r);
Dim rows_are_many(Kernel *k, const Compute *c, const Contraction *r); /* 1 where there are so many, else 0; id 0: their number is known, or data says it */
/* Is a pass that makes panels, or rounds, longer than the product? Where the terms lie side by side, and in the form for few rows (fork.c). */
bool has_few_rows(Kernel *k, const Compute *c, const Contraction *r);
bool has_batches(const Kernel *k, const Compute *c, const Contraction *r); /* an axis chooses what both factors read: of weights none does */
/* How many values of `inner` lie beside each other for one lane of the panels; 0: they are not made for dot products. */
int panel_word(Kernel *k, const Contraction *r, int inner);
int summed_word(Kernel *k, const Compute *c); /* of a stage that is such a product; else 0 */

/* The space axes that stages [first, last) can share: every read of what the group writes is at the axes themselves. */
int share_axes(Kernel *k, uint32_t first, uint32_t last, int *axis);

/* widen.c: does a stage with these loads make numbers of constant codes? Which buffers hold such numbers: 1 + the stage that makes them. */
bool is_widening(Kernel *k, const LoadList *l);
int *widened_buffers(Kernel *k, Arena *mem);
void program_widen_windows(Kernel *k); /* windows over images take formulas of codes in, before layouts of these are chosen */

/* fuse.c: axes that run through memory as one become one. A kernel of several stages stays as it is. */
void kernel_fuse(Kernel *k);
#endif
