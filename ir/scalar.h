/* scalar.h - the grammar of expressions, shared by scalar bodies (scalar.c) and kernel texts (kernel_text.c): the two
 * differ in what a name may be. */
#ifndef OCTET_SCALAR_H
#define OCTET_SCALAR_H
#include "ir/expr.h"

enum { MAX_LETS = 64 };
typedef struct Scalar Scalar;
struct Scalar {
    Kernel *k;
    const char *p;     /* what is left of the text */
    const char *error; /* the first one */
    DType number;      /* what numbers are that meet only numbers; DT_i64: indices */
    int lets;
    struct {
        const char *name;
        size_t len;
        Expr e;
    } let[MAX_LETS];
    Expr (*name)(Scalar *s, const char *name, size_t len); /* a name that is neither a let nor a function; 0: unknown */
    void *ctx;
};

void scalar_skip(Scalar *s);
bool scalar_accept(Scalar *s, const char *text); /* a word only when it ends there */
bool scalar_expect(Scalar *s, const char *text);
bool scalar_fail(Scalar *s, const char *fmt, ...) PRINTF_LIKE(2, 3); /* false */
size_t scalar_word(Scalar *s, const char **at);                      /* letters, digits, _; 0: none */
Expr scalar_expr(Scalar *s);                                         /* 0: failed */
Expr scalar_index(Scalar *s);                                        /* an i64, numbers are i64 */
Expr scalar_fit(Scalar *s, Expr e, DType t);                         /* a number becomes a t; another type fails */
void expr_print(const Kernel *k, Expr e, FILE *f);
void place_print(const Kernel *k, int buf, const Expr *at, FILE *f);

/* Operators by level, loosest first; shared by parser and printer. */
typedef struct ScalarSign {
    const char *sign;
    int level;
    Prim prim;
} ScalarSign;
enum { SCALAR_SIGNS = 13 };
extern const ScalarSign scalar_signs[SCALAR_SIGNS];
#endif
