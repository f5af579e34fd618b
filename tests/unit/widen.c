/* Weights that are codes: packed in bytes, widened a block of columns at a time beside their product, or where they are looked up. Every
 * step leaves the results as they are; what the constants take in memory is what their bits take. */
#include "codegen/analyse.h"
#include "tests/unit/kernel_runs.h"

static const Buf *find(const Program *p, const char *name)
{
    for (uint32_t b = 1; b < p->k->buf.n; b++)
        if (!strcmp(p->k->buf.at[b].name, name)) return &p->k->buf.at[b];
    return NULL;
}

static uint32_t shared(const Program *p)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->k->stage.n; i++) n += p->k->stage.at[i].share != 0;
    return n;
}

static Program *through(const char *text, int64_t rows)
{
    Program *p = program_new(text);
    p->symbol[0] = rows;
    program_through(p);
    return p;
}

#define BLOCKS " w[k, n] = (f32(i32(Q[k, n]) - i32(Z[k / 32, n]))) * S[k / 32, n]"
#define PRODUCT " Y[m, n] = sum(k: 96) X[m, k] * w[k, n]"

/* One row, several, a number that only the call knows; columns that fill panels and such that do not. */
Test(widen, blocks_of_four_bits)
{
    static const char *const head[] = {
        "kernel k() { in X[1, 96] const Q: u4[96, 80], Z: u4[3, 80], S[3, 80] out Y[1, 80] tmp w[96, 80]" BLOCKS PRODUCT " }",
        "kernel k() { in X[40, 96] const Q: u4[96, 80], Z: u4[3, 80], S[3, 80] out Y[40, 80] tmp w[96, 80]" BLOCKS PRODUCT " }",
        "kernel k(M) { in X[M, 96] const Q: u4[96, 80], Z: u4[3, 80], S[3, 80] out Y[M, 80] tmp w[96, 80]" BLOCKS PRODUCT " }",
        "kernel k(M) { in X[M, 96] const Q: i4[96, 75], Z: i4[3, 75], S[3, 75] out Y[M, 75] tmp w[96, 75]" BLOCKS PRODUCT " }",
        "kernel k(M) { in X[M, 96] const Q: u2[96, 64], Z: u2[3, 64], S[3, 64] out Y[M, 64] tmp w[96, 64]" BLOCKS PRODUCT " }"};
    for (size_t i = 0; i < COUNT_OF(head); i++)
        for (int64_t rows = 1; rows < 30; rows += 12) {
            Program *p = through(head[i], rows);
            const Buf *q = find(p, "Q.packed");
            cr_assert(q, "%s", head[i]);
            cr_expect_eq(q->type, DT_u8);
            cr_expect_eq(tensor_count(q->data), tensor_count(find(p, "Q")->data) * dtypes[find(p, "Q")->type].bits / 8);
            cr_expect_eq(shared(p), 2, "the stage that widens and the product");
            program_drop(p);
        }
}

/* Values in blocks of 8-bit codes: the codes of the weights are multiplied as they are, with scales and zero points in the same order. */
#define CODES                                                                                                          \
    " Y[m, n] = sum(b: 3, w: 4, i: 2, j: 4) (f32(i32(X[m, b, w * 8 + i * 4 + j]) * and(shr(i32(Q[b, w, j, n]), i32(i " \
    "* 4)), 15)) - select(w * 8 + i * 4 + j == 0, R[m, b] * "
Test(widen, blocks_that_are_multiplied)
{
    static const char *const text[] = {
        "kernel k(M) { in X: i8[M, 3, 32], T[M, 3], R[M, 3] const Q: u8[3, 4, 4, 80], Z: u8[3, 80], S[3, 80] out Y[M, "
        "80]" CODES "f32(Z[b, n]), 0)) * (T[m, b] * S[b, n]) }",
        "kernel k(M) { in X: i8[M, 3, 32], T[M, 3], R[M, 3] const Q: u8[3, 4, 4, 80], S[3, 80] out Y[M, 80]" CODES
        "8, 0)) * (T[m, b] * S[b, n]) }"};
    for (size_t i = 0; i < COUNT_OF(text); i++)
        for (int64_t rows = 1; rows < 30; rows += 12) {
            Program *p = through(text[i], rows);
            const Compute *s = &p->k->stage.at[p->k->stage.n - 1];
            Contraction r;
            cr_assert(contraction_of(p->k, s, &r) && r.scale && r.zero && r.few_bits, "%s", text[i]);
            cr_expect_eq(panel_word(p->k, &r, s->reduce[s->reduces - 1]), 4);
            cr_expect_eq(find(p, "S")->layout.n, 3, "panels");
            cr_expect_eq(shared(p), 0, "nothing is widened");
            program_drop(p);
        }
}

/* Scales that are codes: the product takes them in, and nothing is widened into memory. */
Test(widen, blocks_with_scales_of_codes)
{
    Program *p = through("kernel k(M) { in X: i8[M, 3, 32], T[M, 3], R[M, 3] const Q: u8[3, 4, 4, 80], C: u8[3, 80], "
                         "G[80] out Y[M, 80] tmp S[3, 80]"
                         " S[b, n] = f32(C[b, n]) * G[n]" CODES "8, 0)) * (T[m, b] * S[b, n]) }",
                         5);
    cr_expect_eq(p->k->stage.n, 1);
    cr_expect_eq(find(p, "C")->layout.n, 3, "panels");
    program_drop(p);
}

/* What the zero point takes: at which point of a block, and from the sums of which rows. */
#define SUMS(rows, first, row)                                                                                         \
    "kernel k() { in X: i8[" rows ", 2, 8, 4], T[" rows ", 2], R[" rows ", 2] const Q: u8[2, 8, 4, 32] out Y[" rows    \
    ", 32] Y[m, n] = sum(b: 2, w: 8, j: 4) (f32(i32(X[m, b, w, j]) * i32(Q[b, w, j, n])) - select(" first              \
    ", R[" row ", b] * 8, 0)) * T[m, b] }"
static bool multiplies_codes(const char *text)
{
    Program *p = program_new(text);
    Contraction r;
    bool is = contraction_of(p->k, &p->k->stage.at[0], &r) && r.scale;
    program_drop(p);
    return is;
}

/* A scale that changes inside the loop that an instruction sums; codes that lanes shift by themselves, or that reach into the next byte; a block whose sum
 * 32 bits may not hold; zero points that take their part more than once, or elsewhere, or sums of other rows: nothing to multiply as integers. */
Test(widen, what_is_no_product_of_codes)
{
    static const char *const text[] = {
        "kernel k() { in X: i8[5, 4, 4], T[5, 4, 4] const Q: u8[4, 4, 32] out Y[5, 32]"
        " Y[m, n] = sum(w: 4, j: 4) (f32(i32(X[m, w, j]) * i32(Q[w, j, n]))) * T[m, w, j] }",
        "kernel k() { in X: i8[5, 4, 4], T[5, 4] const Q: u8[4, 4, 32] out Y[5, 32]"
        " Y[m, n] = sum(w: 4, j: 4) (f32(i32(X[m, w, j]) * and(shr(i32(Q[w, j, n]), i32(n % 2 * 4)), 15))) * T[m, w] }",
        "kernel k() { in X: i8[5, 4, 2, 4], T[5, 4] const Q: u8[4, 4, 32] out Y[5, 32]"
        " Y[m, n] = sum(w: 4, i: 2, j: 4) (f32(i32(X[m, w, i, j]) * and(shr(i32(Q[w, j, n]), i32(i * 4)), 31))) * T[m, "
        "w] }",
        "kernel k() { in X: i8[5, 2, 20000, 4], T[5, 2] const Q: u8[2, 20000, 4, 32] out Y[5, 32]"
        " Y[m, n] = sum(b: 2, w: 20000, j: 4) (f32(i32(X[m, b, w, j]) * i32(Q[b, w, j, n]))) * T[m, b] }",
        SUMS("5", "w * 4 == 0", "m"), SUMS("5", "w * 4 + j == 1", "m"), SUMS("32", "w * 4 + j == 0", "n")};
    cr_expect(multiplies_codes(SUMS("32", "w * 4 + j == 0", "m")), "the same, as it should be");
    for (size_t i = 0; i < COUNT_OF(text); i++) cr_expect(!multiplies_codes(text[i]), "%s", text[i]);
}

/* Codes of a byte, with a scale per column; float codes; scales that are read the other way round; depths that do not divide. */
Test(widen, columns)
{
    static const char *const text[] = {
        "kernel k(M) { in X[M, 50] const Q: i8[50, 64], S[64] out Y[M, 64] tmp w[50, 64]"
        " w[k, n] = f32(Q[k, n]) * S[n] Y[m, n] = sum(k: 50) X[m, k] * w[k, n] }",
        "kernel k(M) { in X[M, 50] const Q: f8e4m3fn[64, 50], S[64] out Y[M, 64] tmp w[64, 50]"
        " w[n, k] = f32(Q[n, k]) * S[n] Y[m, n] = sum(k: 50) X[m, k] * w[n, k] }",
        "kernel k(M) { in X[M, 33] const Q: u4[64, 33], S[64, 3] out Y[M, 64] tmp w[64, 33]"
        " w[n, k] = (f32(i32(Q[n, k]) - 7)) * S[n, k / 16] Y[m, n] = sum(k: 33) X[m, k] * w[n, k] }"};
    for (size_t i = 0; i < COUNT_OF(text); i++) {
        Program *p = through(text[i], 5);
        cr_expect_eq(shared(p), 2, "%s", text[i]);
        program_drop(p);
    }
}

Test(widen, convolution_and_batches)
{
    Program *p = through("kernel k() { in X[1, 64, 9, 9] const Q: u4[32, 64, 3, 3], S[32, 2, 3, 3] out Y[1, 32, 7, 7] tmp w[32, 64, 3, 3]"
                         " w[o, c, i, j] = (f32(i32(Q[o, c, i, j]) - 8)) * S[o, c / 32, i, j]"
                         " Y[n, o, h, v] = sum(c: 64, i: 3, j: 3) X[n, c, h + i, v + j] * w[o, c, i, j] }",
                         1);
    cr_expect(find(p, "Q.packed"));
    cr_expect_eq(find(p, "Q.packed")->data->dim[1], 32, "packed along what has blocks");
    program_drop(p);
    p = through("kernel k(M) { in X[3, M, 64] const Q: i4[3, 64, 48], S[3, 2, 48] out Y[3, M, 48] tmp w[3, 64, 48]"
                " w[b, k, n] = f32(Q[b, k, n]) * S[b, k / 32, n] Y[b, m, n] = sum(k: 64) X[b, m, k] * w[b, k, n] }",
                3);
    cr_expect_eq(shared(p), 2);
    program_drop(p);
}

/* A window over an image reads the codes themselves, in its lanes; codes of less than a byte are widened once. */
Test(widen, windows)
{
    static const struct {
        const char *text;
        bool taken;
    } row[] = {{"kernel k() { in X[1, 9, 9, 48] const Q: i8[48, 1, 3, 3], S[48] out Y[1, 7, 7, 48] tmp w[48, 1, 3, 3] w[c, o, i, j] = f32(Q[c, o, i, j]) * S[c]"
                " Y[n, h, v, c] = sum(i: 3, j: 3) X[n, h + i, v + j, c] * w[c, 0, i, j] }", true},
               {"kernel k(M) { in X[M, 21, 40] const Q: u8[40, 5], Z: u8[40], S[40] out Y[M, 17, 40] tmp w[40, 5] w[c, i] = f32(i32(Q[c, i]) - i32(Z[c])) * S[c]"
                " Y[n, h, c] = sum(i: 5) X[n, h + i, c] * w[c, i] }", true},
               {"kernel k() { in X[1, 9, 9, 48] const Q: i4[48, 3, 3], S[48] out Y[1, 7, 7, 48] tmp w[48, 3, 3] w[c, i, j] = f32(Q[c, i, j]) * S[c]"
                " Y[n, h, v, c] = sum(i: 3, j: 3) X[n, h + i, v + j, c] * w[c, i, j] }", false}};
    for (size_t i = 0; i < COUNT_OF(row); i++) {
        Program *p = through(row[i].text, 3);
        cr_expect_eq(p->k->stage.n, row[i].taken ? 1 : 2, "%s", row[i].text);
        cr_expect(!row[i].taken || innermost_dim(find(p, "Q")) == 0, "lanes walk channels: %s", row[i].text);
        program_drop(p);
    }
}

/* A table that is looked up and multiplied with is stored once; a look-up widens what it reads. */
Test(widen, look_up)
{
    Program *p = through("kernel k(M) { in I: i64[M], X[M, 64] const Q: u4[80, 64], S[80, 2] out E[M, 64], Y[M, 80] tmp w[80, 64]"
                         " w[n, k] = (f32(i32(Q[n, k]) - 8)) * S[n, k / 32]"
                         " E[m, k] = w[min(abs(I[m]), 79), k] Y[m, n] = sum(k: 64) X[m, k] * w[n, k] }",
                         4);
    uint32_t images = 0;
    for (uint32_t b = 1; b < p->k->buf.n; b++) images += !strcmp(p->k->buf.at[b].name, "Q.packed");
    cr_expect_eq(images, 1);
    for (uint32_t i = 0; i < p->k->stage.n; i++)
        cr_expect(strcmp(p->k->buf.at[p->k->stage.at[i].out].name, "w"), "nobody needs all of it as numbers");
    program_drop(p);
}

/* Scales take the fewest bytes that hold them: few steps of a power of two, f16, or what they are. In products and in tables that are looked up. */
Test(widen, scales)
{
    static const char *const name[] = {"S.u8", "S.f16"};
    static const char *const texts[] = {
        "kernel k(M) { in X[M, 96] const Q: u4[96, 80], Z: u4[3, 80], S[3, 80] out Y[M, 80] tmp w[96, 80]" BLOCKS PRODUCT " }",
        "kernel k(M) { in I: i64[M] const Q: u4[240, 32], Z: u4[240, 1], S[240, 1] out Y[M, 32] tmp w[240, 32] w[n, k] = (f32(i32(Q[n, k]) - i32(Z[n, k / 32]))) * S[n, k / 32]"
        " Y[m, k] = w[min(abs(I[m]), 239), k] }"};
    for (int row = 0; row < 4; row++) {
        int from = row % 2;
        Program *p = program_new(texts[row / 2]);
        p->symbol[0] = 3;
        program_fill(p);
        float *s = (float *)(uintptr_t)find(p, "S")->data->data;
        for (int i = 0; i < 240; i++) s[i] = (float)(i + 1 + from * 300) / 64;
        void **want = program_reference(p);
        program_cluster(p->k), program_layout(p->k, NULL), program_widen(p->k, true);
        program_compare(p, want, program_run(p, 0), "widen");
        cr_expect(find(p, name[from]), "%s", texts[row / 2]);
        program_drop(p);
    }
    Program *p = through("kernel k(M) { in X[M, 96] const Q: u4[96, 80], Z: u4[3, 80], S[3, 80] out Y[M, 80] tmp w[96, 80]" BLOCKS PRODUCT " }", 3);
    cr_expect(!find(p, "S.u8") && !find(p, "S.f16"), "random floats need more bits");
    program_drop(p);
}

/* Where stages cannot share loops (GPUs), a product reads the codes themselves. */
Test(widen, in_place)
{
    Program *p = program_new("kernel k(M) { in X[M, 96] const Q: u4[96, 80], Z: u4[3, 80], S[3, 80] out Y[M, 80] tmp w[96, 80]" BLOCKS PRODUCT " }");
    p->symbol[0] = 3;
    program_fill(p);
    void **want = program_reference(p);
    program_cluster(p->k), program_layout(p->k, NULL), program_widen(p->k, false);
    program_check(p->k, "widen");
    program_compare(p, want, program_run(p, 0), "widen");
    cr_expect_eq(p->k->stage.n, 1);
    program_drop(p);
}
