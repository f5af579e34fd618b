/* The assembly of every hot loop: the innermost loops of contractions keep their vectors in registers, on every level.
 *
 * A loop is the lines between a label and a jump back to it; a hot one multiplies and adds vectors. A plain access to the stack with a
 * vector register in such a loop is a spill: sums have no local arrays there. Where the end of a sum is costly, loops of floats that store
 * vectors are not hot: they make results of finished sums, which wait on the stack. */
#include "codegen/analyse.h"
#include "tests/unit/kernel_runs.h"
#include <stdlib.h>
#include <unistd.h>

int octet_main(int argc, char **argv);

typedef struct Line {
    const char *at;
    size_t n;
} Line;
typedef struct Span {
    int from, to;
} Span;
typedef struct Assembly {
    Arena *mem;
    VEC(Line) line;
    VEC(Span) loop;
} Assembly;

static bool has(Line l, const char *text)
{
    size_t n = strlen(text);
    for (size_t i = 0; i + n <= l.n; i++)
        if (!strncmp(l.at + i, text, n)) return true;
    return false;
}

static bool has_any(Line l, const char *const *text)
{
    for (; *text; text++)
        if (has(l, *text)) return true;
    return false;
}

/* The label a jump goes to: "\tjne\t.LBB0_3". */
static bool jump_target(Line l, Line *to)
{
    if (l.n < 3 || l.at[0] != '\t' || l.at[1] != 'j') return false;
    for (size_t i = 1; i < l.n; i++)
        if (!strncmp(l.at + i, ".LBB", 4)) {
            *to = (Line){l.at + i, l.n - i};
            return true;
        }
    return false;
}

static bool is_label(Line l, Line name) { return l.n == name.n + 1 && l.at[l.n - 1] == ':' && !strncmp(l.at, name.at, name.n); }

static Assembly assembly_of(Arena *mem, const char *text)
{
    Assembly a = {.mem = mem};
    for (const char *p = text; *p;) {
        Line l = {p, strcspn(p, "\n#")};
        while (l.n && (l.at[l.n - 1] == ' ' || l.at[l.n - 1] == '\t')) l.n--;
        vec_push(mem, &a.line, l);
        p += strcspn(p, "\n");
        p += *p == '\n';
    }
    for (int i = 0; i < (int)a.line.n; i++) {
        Line to;
        if (!jump_target(a.line.at[i], &to)) continue;
        for (int k = i; k-- > 0;)
            if (is_label(a.line.at[k], to)) {
                vec_push(mem, &a.loop, (Span){k, i});
                break;
            }
    }
    return a;
}

static bool is_innermost(const Assembly *a, Span s)
{
    for (uint32_t i = 0; i < a->loop.n; i++) {
        Span o = a->loop.at[i];
        if (o.from >= s.from && o.to <= s.to && (o.from != s.from || o.to != s.to)) return false;
    }
    return true;
}

static const char *const multiplies[] = {"vfmadd", "vpdp", "pmaddw", "mulps", "pmulld", NULL};
static const char *const dots[] = {"vpdp", "pmaddw", "pmulld", NULL}; /* no end of a sum has them */
static const char *const vectors[] = {"%xmm", "%ymm", "%zmm", NULL};

static bool stores_vector(Line l) /* the destination is the last operand */
{
    return l.n && l.at[l.n - 1] == ')' && has(l, "mov") && has_any(l, vectors) && !has(l, "(%rsp)");
}

/* The hot loops of a text; *spill receives a line that touches the stack. ends: sums may wait for their end in loops of their own. */
static int hot_loops(const Assembly *a, bool ends, Line *spill)
{
    int hot = 0;
    for (uint32_t i = 0; i < a->loop.n; i++) {
        Span s = a->loop.at[i];
        bool multiply = false, stores = false, dot = false;
        Line found = {0};
        if (!is_innermost(a, s)) continue;
        for (int k = s.from; k <= s.to; k++) {
            Line l = a->line.at[k];
            multiply = multiply || (has_any(l, multiplies) && has_any(l, vectors));
            if (has(l, "(%rsp)") && has_any(l, vectors)) found = l;
            stores = stores || stores_vector(l), dot = dot || has_any(l, dots);
        }
        if (!multiply || (ends && stores && !dot)) continue;
        hot++;
        if (found.at) *spill = found;
    }
    return hot;
}

static int check_text(Arena *mem, const char *text, bool ends, const char *what, const char *level)
{
    Assembly a = assembly_of(mem, text);
    Line spill = {0};
    int hot = hot_loops(&a, ends, &spill);
    cr_expect(!spill.at, "%s, %s spills in a hot loop:%.*s", what, level, (int)spill.n, spill.at);
    return hot;
}

static bool has_contraction(Kernel *k)
{
    Contraction r;
    for (uint32_t i = 0; i < k->stage.n; i++)
        if (contraction_of(k, &k->stage.at[i], &r)) return true;
    return false;
}

/* Is what is done to sums so much that their tile may put them down first? */
static bool has_costly_end(const Kernel *k)
{
    enum { COSTLY = 4 }; /* of operations */
    bool any = false;
    for (uint32_t i = 0; i < k->stage.n; i++) any = any || (k->stage.at[i].epilogue && expr_cost(k, k->stage.at[i].epilogue) >= COSTLY);
    return any;
}

static void check_program(const char *source)
{
    Program *p = program_new(source);
    int hot = 0;
    program_cluster(p->k), program_layout(p->k, NULL);
    Cut *c = program_cut(p->k, &p->mem);
    for (uint32_t t = 0; target_at(t); t++)
        for (uint32_t i = 0; i < c->kernel.n && !target_at(t)->gpu; i++) {
            if (!has_contraction(c->kernel.at[i])) continue;
            const char *level = target_at(t)->name, *text;
            LlvmJob job = {kernel_scheduled(c->kernel.at[i], level), target_at(t), "k", false};
            cr_assert(llvm_text(&p->mem, &p->diag, &job, true, &text));
            hot += check_text(&p->mem, text, has_costly_end(job.kernel), p->k->name, level);
        }
    cr_expect(hot > 0, "%s has hot loops", p->k->name);
    program_drop(p);
}

static const char *const programs[] = {
    "kernel gemm() { in A[64, 256] const W[256, 96], B[96] out Y[64, 96] Y[m, n] = sum(k: 256) A[m, k] * W[k, n] then "
    "max(it + B[n], 0) }",
    "kernel gemm_tails(M) { in A[M, 77] const W[77, 43], B[43] out Y[M, 43] Y[m, n] = sum(k: 77) A[m, k] * W[k, n] "
    "then it + B[n] }",
    "kernel vector() { in A[1, 512] const W[512, 1000] out Y[1, 1000] Y[m, n] = sum(k: 512) A[m, k] * W[k, n] }",
    "kernel gelu(M) { in A[M, 64], R[M, 96] const W[64, 96], B[96] tmp p[M, 96], b[M, 96] out Y[M, 96]"
    " p[m, n] = sum(k: 64) A[m, k] * W[k, n] b[m, n] = p[m, n] + B[n]"
    " Y[m, n] = 0.5 * b[m, n] * (1 + erf(b[m, n] * 0.70710678)) + R[m, n] }",
    "kernel scores() { in Q[12, 128, 64], K[12, 128, 64] out S[12, 128, 128] S[h, i, j] = sum(k: 64) Q[h, i, k] * K[h, "
    "j, k] then it * 0.125 }",
    "kernel keys(M, T) { in Q[8, M, 64], K[2, T, 64] out S[8, M, T] S[h, i, j] = sum(k: 64) Q[h, i, k] * K[h / 4, j, k] then it * 0.125 }",
    "kernel conv3x3() { in X[1, 64, 28, 28] const W[64, 64, 3, 3], B[64] out Y[1, 64, 28, 28]"
    " Y[n, o, y, x] = sum(c: 64, i: 3, j: 3) guard(0 <= y + i - 1 && y + i - 1 < 28 && 0 <= x + j - 1 && x + j - 1 < "
    "28,"
    " X[n, c, y + i - 1, x + j - 1], 0) * W[o, c, i, j] then max(it + B[o], 0) }",
    "kernel conv_first() { in X[1, 3, 64, 64] const W[32, 3, 7, 7], B[32] out Y[1, 32, 32, 32]"
    " Y[n, o, y, x] = sum(c: 3, i: 7, j: 7) guard(0 <= y * 2 + i - 3 && y * 2 + i - 3 < 64 && 0 <= x * 2 + j - 3 && x "
    "* 2 + j - 3 < 64,"
    " X[n, c, y * 2 + i - 3, x * 2 + j - 3], 0) * W[o, c, i, j] then max(it + B[o], 0) }",
    "kernel conv1x1() { in X[1, 128, 14, 14], R[1, 256, 14, 14] const W[256, 128], B[256] out Y[1, 256, 14, 14]"
    " Y[n, o, y, x] = sum(c: 128) X[n, c, y, x] * W[o, c] then max(it + B[o] + R[n, o, y, x], 0) }",
    "kernel gemm_int8(M) { in A: u8[M, 256] const W: i8[256, 96], S[96], B[96] tmp a: i32[M, 96] out Y: u8[M, 96]"
    " a[m, n] = sum(k: 256) i32(A[m, k]) * i32(W[k, n]) Y[m, n] = sat_u8(rint(f32(a[m, n]) * S[n] + B[n]) + 3) }",
    "kernel conv_int8() { in X: u8[1, 64, 14, 14] const W: i8[64, 64, 3, 3], S[64], B[64] tmp a: i32[1, 64, 14, 14] "
    "out Y: u8[1, 64, 14, 14]"
    " a[n, o, y, x] = sum(c: 64, i: 3, j: 3) i32(guard(0 <= y + i - 1 && y + i - 1 < 14 && 0 <= x + j - 1 && x + j - 1 "
    "< 14,"
    " X[n, c, y + i - 1, x + j - 1], u8(3))) * i32(W[o, c, i, j]) Y[n, o, y, x] = sat_u8(rint(f32(a[n, o, y, x]) * "
    "S[o] + B[o]) + 3) }",
    "kernel gemm_signed(M) { in A: i8[M, 256] const W: i8[256, 96] out Y: i32[M, 96] Y[m, n] = sum(k: 256) i32(A[m, "
    "k]) * i32(W[k, n]) }",
    "kernel gemm_rows() { in A: u8[49, 2048] const W: i8[2048, 512] out Y: i32[49, 512] Y[m, n] = sum(k: 2048) "
    "i32(A[m, k]) * i32(W[k, n]) }",
    "kernel blocks(M) { in X: i8[M, 8, 32], T[M, 8], R[M, 8] const Q: u8[8, 4, 4, 256], S[8, 256], Z: u8[8, 256] out "
    "Y[M, 256] Y[m, n] = sum(b: 8, w: 4, i: 2, j: 4)"
    " (f32(i32(X[m, b, w * 8 + i * 4 + j]) * and(shr(i32(Q[b, w, j, n]), i32(i * 4)), 15)) - select(w * 8 + i * 4 + j == "
    "0, R[m, b] * f32(Z[b, n]), 0)) * (T[m, b] * S[b, n]) }",
    "kernel block_rows() { in X: i8[64, 8, 32], T[64, 8], R[64, 8] const Q: u8[8, 8, 4, 256], S[8, 256] out Y[64, 256] "
    "Y[m, n] = sum(b: 8, w: 8, j: 4)"
    " (f32(i32(X[m, b, w * 4 + j]) * i32(Q[b, w, j, n])) - select(w * 4 + j == 0, R[m, b] * 128, 0)) * (T[m, b] * "
    "S[b, n]) }",
    "kernel scores_int8() { in Q: u8[12, 128, 64], K: i8[12, 128, 64] out S: i32[12, 128, 128]"
    " S[h, i, j] = sum(k: 64) i32(Q[h, i, k]) * i32(K[h, j, k]) }",
};

Test(spills, kernels)
{
    for (size_t i = 0; i < COUNT_OF(programs); i++) check_program(programs[i]);
}

/* A whole small model at every level, as a float and an integer program. */
Test(spills, model)
{
    static const char *const integer[] = {"--quantize", "int8", "--ranges", "samples/digits/digits.ranges"};
    char path[] = "/tmp/octet-spills-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
    for (uint32_t t = 0; target_at(t); t++)
        for (int quantized = 0; quantized < 2 && !target_at(t)->gpu; quantized++) {
            Arena mem = {0};
            const char *level = target_at(t)->name;
            const char *argv[16] = {"octet", "compile", "samples/digits/digits.onnx", "--emit", "asm", "-o", path, "--target", level};
            int n = 9;
            for (size_t i = 0; quantized && i < COUNT_OF(integer); i++) argv[n++] = integer[i];
            cr_assert_eq(octet_main(n, (char **)(uintptr_t)argv), 0, "run from the source folder");
            FILE *f = fopen(path, "rb");
            char *text = arena_alloc(&mem, 8 << 20);
            cr_assert_lt(fread(text, 1, (8 << 20) - 1, f), (8 << 20) - 1);
            fclose(f);
            cr_expect(check_text(&mem, text, quantized, quantized ? "digits int8" : "digits", level) > 0);
            arena_drop(&mem);
        }
    unlink(path);
}
