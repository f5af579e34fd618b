/* Kernel texts: print and parse are inverse; mistakes come with their line; the verifier sees what is broken. */
#include "ir/kernel.h"
#include <criterion/criterion.h>
#include <stdlib.h>

static Arena mem;
static Diag diag;
static void setup(void) { diag = (Diag){.mem = &mem, .subject = "t"}; }
static void teardown(void) { arena_drop(&mem); }
TestSuite(kernel_text, .init = setup, .fini = teardown);

static Kernel *parse(const char *text) { return kernel_parse(&mem, dims_new(&mem), text, &diag); }

static const char *print(const Kernel *k)
{
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    kernel_print(k, f);
    fclose(f);
    const char *copy = arena_text(&mem, text, n);
    free(text);
    return copy;
}

static const char everything[] =
    "kernel all(R, C) {\n"
    "  in X[R, C]\n"
    "  in I: i64[R]\n"
    "  out Y[R, C]\n"
    "  out Z: u8[R, (2 * C)]\n"
    "  tmp m[R]\n"
    "  tmp s[R]\n"
    "  const W: i8[32, ((2 * C) + 1)] layout(0/16, 1/4, 0%16, 1%4)\n"
    "  m[r] = max(c: C) X[r, c]\n"
    "  s[r] = sum(c: C) exp(X[r, c] - m[r]) keep Y[r, c] then 1.0 / it\n"
    "  Y[r, c] = Y[r, c] * s[r] check 0 <= I[r] && I[r] < R\n"
    "  Z[r, c + fdiv(C, 2)] for r: R, c: C = sat_u8(rint(select(X[r, c] < 0.0, 0.100000001, X[r, c]) * 1.00000001e-07 "
    "+ 128.0)) where r != 3 share 2\n"
    "  Z[r, d] for r: R, d: C max= u8(f32(i32(W[r / 7, d])))\n"
    "  m[r] = guard(0 <= r - 1 && r - 1 < 5, X[r - 1, 0], -inf) scan r\n"
    "  schedule: share r; parallel r; split c 4 16; unroll c.1; vectorize c.2; partial c.1 c.2; guard c\n"
    "}\n";

Test(kernel_text, round_trip)
{
    Kernel *k = parse(everything);
    cr_assert(k, "%s", diag.line.n ? diag.line.at[0] : "");
    const char *why = NULL;
    cr_expect(kernel_verify(k, &why), "%s", why);
    cr_expect_str_eq(print(k), everything);
    cr_expect_eq(k->schedule.step.n, 7);
    cr_expect_eq(k->axis.at[k->schedule.step.at[2].axis[0]].parts, 3);
}

Test(kernel_text, names_that_are_no_words)
{
    Dims *d = dims_new(&mem);
    Kernel *k = kernel_new(&mem, d, "k");
    Expr n = expr_dim(k, dim_symbol(d, "batch.size", DIM_INPUT, 0));
    kernel_buf(k, (Buf){.name = "X", .kind = BUF_IN, .type = DT_f32, .rank = 1, .dim = {n}});
    cr_expect_str_eq(print(k), "kernel k('batch.size') {\n  in X['batch.size']\n}\n");
}

static const char *error_of(const char *text)
{
    diag.line.n = 0;
    return parse(text) ? "parsed" : diag.line.at[0];
}

Test(kernel_text, errors)
{
    cr_expect_str_eq(error_of("kernel k() {\n out Y[3]\n Y[i] = Q[i]\n}"),
                     "t: error: line 3: unknown name 'Q' at '[i]\n}'");
    cr_expect_str_eq(error_of("kernel k() { out Y[3], Y[2] }"), "t: error: line 1: two buffers 'Y' at '}'");
    cr_expect_str_eq(error_of("kernel k() { out Y: f33[3] }"), "t: error: line 1: no type 'f33' at '[3] }'");
    cr_expect_str_eq(error_of("kernel k() { out Y[3], Z[4] Y[i] = 0 Z[i] = 0 }"),
                     "t: error: line 1: axis 'i' has two extents at '] = 0 }'");
    cr_expect_str_eq(error_of("kernel k() { out Y[3] Y[i] = 0 schedule: fold i }"),
                     "t: error: line 1: no directive 'fold' at ' i }'");
    cr_expect_str_eq(error_of("kernel k() { out Y[3] Y[i] = 0 schedule: unroll j }"),
                     "t: error: line 1: no axis 'j' at ' }'");
    cr_expect_str_eq(error_of("kernel k() { out Y[3] Y[i] = X"), "t: error: line 1: unknown name 'X' at ''");
}

static const char *reason(Kernel *k)
{
    const char *why = "";
    return kernel_verify(k, &why) ? "valid" : why;
}

Test(kernel_text, verifier)
{
    const char *text = "kernel k(N) { in X[N], I: i64[N] out Y[N] tmp t[N] t[i] = X[i] Y[j] = t[j] * 2 }";
    cr_expect_str_eq(reason(parse(text)), "valid");
    Kernel *k = parse(text);
    k->stage.at[0].value = expr_load(k, 1, &k->stage.at[1].at[0]);
    cr_expect_str_eq(reason(k), "axis j is used out of its scope");
    k = parse(text);
    k->stage.at[0].value = expr_load(k, 2, &k->stage.at[0].at[0]);
    cr_expect_str_eq(reason(k), "a value has type i64, expected f32");
    k = parse(text);
    Compute first = k->stage.at[0];
    k->stage.at[0] = k->stage.at[1], k->stage.at[1] = first;
    cr_expect_str_eq(reason(k), "t is read before it is written");
    k = parse(text);
    k->stage.at[0].out = 1;
    cr_expect_str_eq(reason(k), "X is written to");
    k = parse(text);
    k->stage.at[0].reduces = 1, k->stage.at[0].reduce[0] = k->stage.at[0].space[0];
    cr_expect_str_eq(reason(k), "reduction axes without a reduction");
    k->stage.at[0].how = P_add;
    cr_expect_str_eq(reason(k), "axis i is bound twice");
    k = parse(text);
    k->stage.at[0].epilogue = expr_it(k, DT_i64);
    cr_expect_str_eq(reason(k), "`it` of type i64 where there is none");
}

Test(kernel_text, loops)
{
    Kernel *k = parse("kernel k(N) { in X[N] out Y[N] Y[i] = X[i] }");
    Stmt store = {.kind = S_STORE, .buf = 2, .at = {k->stage.at[0].at[0]}, .value = k->stage.at[0].value};
    Stmt loop = {.kind = S_FOR, .axis = 1, .lo = expr_index(k, 0), .hi = k->axis.at[1].extent, .body = &store};
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    loops_print(k, &loop, 0, f);
    fclose(f);
    cr_expect_str_eq(text, "for i in [0, N)\n  Y[i] = X[i]\n");
    free(text);
    k->loops = &loop;
    cr_expect_str_eq(reason(k), "valid");
    float x[] = {1, 2}, y[2];
    cr_expect_eq(interp_loops(k, (int64_t[]){2}, (void *[]){NULL, x, y}), 0);
    cr_expect(y[0] == 1 && y[1] == 2);
    k->loops = &store;
    cr_expect_str_eq(reason(k), "axis i is used out of its scope");
}
