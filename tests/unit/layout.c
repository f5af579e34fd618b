/* Layouts: who gets which order, what is copied for it, and that results stay. */
#include "codegen/analyse.h"
#include "tests/unit/kernel_runs.h"

static Program *laid_out(const char *text)
{
    Program *p = program_new(text);
    p->symbol[0] = 5;
    program_fill(p);
    void **want = program_reference(p);
    program_cluster(p->k);
    program_layout(p->k, NULL);
    program_check(p->k, "layout");
    program_compare(p, want, program_run(p, 0), "layout");
    return p;
}

static const Buf *buf_named(const Program *p, const char *name)
{
    for (uint32_t b = 1; b < p->k->buf.n; b++)
        if (!strcmp(p->k->buf.at[b].name, name)) return &p->k->buf.at[b];
    cr_assert_fail("no buffer %s", name);
    return NULL;
}

static void expect_order(const Buf *b, int n, const LayoutAxis *axis)
{
    cr_assert_eq(b->layout.n, n, "%s has %d physical axes", b->name, b->layout.n);
    for (int i = 0; i < n; i++) {
        LayoutAxis a = b->layout.axis[i];
        cr_assert(a.dim == axis[i].dim && (a.div ? a.div : 1) == axis[i].div && a.size == axis[i].size, "physical axis %d of %s", i, b->name);
    }
}

#define INSIDE(e, n) "0 <= " e " && " e " < " n

Test(layout, weights_become_panels)
{
    Program *p = laid_out("kernel k() { in A[4, 20] const W[20, 40] out Y[4, 40] Y[m, n] = sum(k: 20) A[m, k] * W[k, n] }");
    expect_order(buf_named(p, "W"), 3, (LayoutAxis[]){{1, 16, 0}, {0, 1, 0}, {1, 1, 16}});
    program_drop(p);
    p = laid_out("kernel k() { in A: u8[4, 20] const W: i8[40, 20] out Y: i32[4, 40] Y[m, n] = sum(k: 20) i32(A[m, k]) * i32(W[n, k]) }");
    expect_order(buf_named(p, "W"), 4, (LayoutAxis[]){{0, 16, 0}, {1, 4, 0}, {0, 1, 16}, {1, 1, 4}});
    program_drop(p);
    p = laid_out("kernel k() { in A: bf16[4, 20] const W: bf16[20, 40] out Y[4, 40] Y[m, n] = sum(k: 20) f32(A[m, k]) * f32(W[k, n]) }");
    expect_order(buf_named(p, "W"), 4, (LayoutAxis[]){{1, 16, 0}, {0, 2, 0}, {1, 1, 16}, {0, 1, 2}});
    program_drop(p);
}

/* Large factors that lie across are turned once when much reads them; rows then do not begin a multiple of a page apart. */
Test(layout, what_lies_across_is_turned)
{
    Program *p = laid_out("kernel k() { in A[128, 256], B[256, 256] out Y[128, 256] Y[m, n] = sum(k: 256) A[m, k] * B[k, n] }");
    expect_order(&p->k->buf.at[p->k->buf.n - 1], 3, (LayoutAxis[]){{1, 16, 0}, {0, 1, 0}, {1, 1, 16}});
    program_drop(p);
    p = laid_out("kernel k() { in A[8, 256], B[256, 256] out Y[8, 256] Y[m, n] = sum(k: 256) A[m, k] * B[k, n] }");
    cr_assert_eq(p->k->stage.n, 1, "few rows read it");
    program_drop(p);
    p = laid_out("kernel k() { in A[256, 256] const B[256, 128] out Y[256, 128] Y[m, n] = sum(k: 256) A[k, m] * B[k, n] }");
    cr_assert_eq(p->k->stage.n, 2);
    cr_expect(expr_is(p->k, p->k->buf.at[p->k->buf.n - 1].dim[1], 256 + 16));
    program_drop(p);
}

/* Rows that products read one after the other do not begin in the same few places of a cache, if they are temporaries and not short. */
Test(layout, rows_begin_in_different_places)
{
    static const struct {
        const char *type;
        int columns, apart;
    } temporary[] = {{"u8", 768, 832},   {"u8", 512, 576},  {"u8", 256, 256}, {"u8", 800, 800},
                     {"bf16", 768, 800}, {"f32", 768, 784}, {"f32", 320, 320}};
    for (size_t i = 0; i < COUNT_OF(temporary); i++) {
        Arena mem = {0};
        const char *type = temporary[i].type, *sum = strcmp(type, "u8") ? "f32" : "i32",
                   *right = strcmp(type, "u8") ? type : "i8";
        int n = temporary[i].columns;
        const char *text =
            arena_printf(&mem,
                         "kernel k() { in F[64, %d] const W: %s[%d, 32] out Y: %s[64, 32] tmp X: %s[64, %d]"
                         " X[m, k] = %s(tanh(F[m, k])) Y[m, n] = sum(k: %d) %s(X[m, k]) * %s(W[k, n]) }",
                         n, right, n, sum, type, n, strcmp(type, "u8") ? type : "sat_u8", n, sum, sum);
        Program *p = laid_out(text);
        cr_expect(expr_is(p->k, buf_named(p, "X")->dim[1], temporary[i].apart), "%s", text);
        program_drop(p);
        arena_drop(&mem);
    }
}

/* An image's channels lie side by side: that the taps of a window are apart makes no copies of it, in whatever order they are summed. */
Test(layout, an_image_of_many_channels_stays)
{
    Program *p = laid_out("kernel k() { in X[3, 30, 256] const W[128, 256, 3, 3] out Y[28, 128]"
                          " Y[x, o] = sum(c: 256, i: 3, j: 3) X[i, x + j, c] * W[o, c, i, j] }");
    cr_assert_eq(p->k->stage.n, 1);
    program_drop(p);
}

Test(layout, groups_have_panels_of_their_own)
{
    Program *p = laid_out("kernel k() { in A: u8[4, 40] const W: i8[36, 20] out Y: i32[4, 36]"
                          " Y[m, g * 18 + n] for m: 4, g: 2, n: 18 = sum(k: 20) i32(A[m, g * 20 + k]) * i32(W[g * 18 + n, k]) }");
    expect_order(buf_named(p, "W.groups"), 5, (LayoutAxis[]){{0, 1, 0}, {1, 16, 0}, {2, 4, 0}, {1, 1, 16}, {2, 1, 4}});
    program_drop(p);
}

Test(layout, taps_of_a_first_layer_share_words)
{
    Program *p = laid_out("kernel k() { in F[1, 3, 15, 17] const W: i8[16, 3, 7, 7] out Y: i32[1, 16, 5, 6]"
                          " tmp X: u8[1, 3, 15, 17] layout(0, 2, 3, 1) X[b, x, y, z] = sat_u8(rint(F[b, x, y, z] * 50))"
                          " Y[n, o, h, w] = sum(c: 3, i: 7, j: 7) i32(X[n, c, h * 2 + i, w * 2 + j]) * i32(W[o, c, i, j]) }");
    expect_order(buf_named(p, "W.rows"), 5, (LayoutAxis[]){{0, 16, 0}, {1, 1, 0}, {2, 4, 0}, {0, 1, 16}, {2, 1, 4}});
    cr_assert(expr_is(p->k, buf_named(p, "W.rows")->dim[2], 21));
    program_drop(p);
}

/* One tap is no word: an image that came row-major is turned for its channels. */
Test(layout, one_tap_is_no_word)
{
    Program *p = laid_out("kernel k() { in X: u8[1, 64, 8, 8] const W: i8[32, 64, 1, 1] out Y: i32[1, 8, 8, 32]"
                          " Y[n, h, w, o] = sum(c: 64, i: 1, j: 1) i32(X[n, c, h + i, w + j]) * i32(W[o, c, i, j]) }");
    expect_order(buf_named(p, "W"), 6,
                 (LayoutAxis[]){{0, 16, 0}, {2, 1, 0}, {3, 1, 0}, {1, 4, 0}, {0, 1, 16}, {1, 1, 4}});
    program_drop(p);
}

/* Words of narrow floats hold nothing but channels and zeros: a neighbour may be infinite. Whoever makes the image stores the zeros. */
Test(layout, few_channels_fill_words)
{
    Program *p = program_new("kernel k() { in F[1, 3, 15, 17] const W: bf16[16, 3, 7, 7] out Y[1, 16, 5, 6], Z[1, 3, 15, 17] tmp X: bf16[1, 3, 15, 17]"
                             " X[b, x, y, z] = bf16(F[b, x, y, z])"
                             " Y[n, o, h, w] = sum(c: 3, i: 7, j: 7) f32(X[n, c, h * 2 + i, w * 2 + j]) * f32(W[o, c, i, j])"
                             " Z[b, x, y, z] = f32(X[b, x, y, z]) * 2 }");
    program_fill(p);
    ((float *)p->input[1])[14 * 17 + 16] = INFINITY; /* the neighbour of a last row */
    ((float *)p->input[1])[15 * 17] = NAN;
    void **want = program_reference(p);
    program_layout(p->k, NULL);
    program_check(p->k, "layout");
    program_compare(p, want, program_run(p, 0), "layout");
    expect_order(buf_named(p, "X"), 4, (LayoutAxis[]){{0, 1, 0}, {2, 1, 0}, {3, 1, 0}, {1, 1, 0}});
    cr_assert(expr_is(p->k, buf_named(p, "X")->dim[1], 4));
    expect_order(buf_named(p, "W.filled.rows"), 5, (LayoutAxis[]){{0, 16, 0}, {1, 1, 0}, {2, 2, 0}, {0, 1, 16}, {2, 1, 2}});
    cr_assert(expr_is(p->k, buf_named(p, "W.filled.rows")->dim[2], 28));
    program_drop(p);
}

/* One channel would be mostly zeros, and what a sum makes has no formula for them. */
Test(layout, channels_that_stay_as_they_are)
{
    Program *p = laid_out("kernel k() { in F[1, 1, 9, 9] const W: bf16[16, 1, 5, 5] out Y[1, 16, 5, 5] tmp X: bf16[1, 1, 9, 9]"
                          " X[b, x, y, z] = bf16(F[b, x, y, z])"
                          " Y[n, o, h, w] = sum(c: 1, i: 5, j: 5) f32(X[n, c, h + i, w + j]) * f32(W[o, c, i, j]) }");
    cr_assert_eq(buf_named(p, "X")->layout.n, 0);
    program_drop(p);
    p = laid_out("kernel k() { in F[1, 3, 9, 9, 20] const W: bf16[16, 3, 3, 3] out Y[1, 16, 7, 7] tmp X: bf16[1, 3, 9, 9]"
                 " X[b, x, y, z] = sum(q: 20) F[b, x, y, z, q] then bf16(it)"
                 " Y[n, o, h, w] = sum(c: 3, i: 3, j: 3) f32(X[n, c, h + i, w + j]) * f32(W[o, c, i, j]) }");
    cr_assert(expr_is(p->k, buf_named(p, "X")->dim[1], 3));
    program_drop(p);
}

Test(layout, convolutions_are_channels_last_inside)
{
    Program *p = laid_out("kernel k() { in X[1, 3, 9, 9] const W[32, 3, 3, 3], V[16, 32, 3, 3] out Y[1, 16, 7, 7]"
                          " tmp a[1, 32, 7, 7] layout(0, 2, 3, 1), r[1, 32, 7, 7]"
                          " a[n, o, h, w] = sum(c: 3, i: 3, j: 3) X[n, c, h + i, w + j] * W[o, c, i, j]"
                          " r[n, o, h, w] = max(a[n, o, h, w], 0)"
                          " Y[n, p, h, w] = sum(k: 32, i: 3, j: 3) guard(" INSIDE("h + i - 1", "7") " && " INSIDE("w + j - 1", "7")
                          ", r[n, k, h + i - 1, w + j - 1], 0) * V[p, k, i, j] }");
    expect_order(buf_named(p, "r.pad"), 4, (LayoutAxis[]){{0, 1, 0}, {2, 1, 0}, {3, 1, 0}, {1, 1, 0}});
    expect_order(buf_named(p, "V"), 5, (LayoutAxis[]){{0, 16, 0}, {2, 1, 0}, {3, 1, 0}, {1, 1, 0}, {0, 1, 16}});
    cr_assert_eq(buf_named(p, "X")->layout.n, 0);
    cr_assert_eq(buf_named(p, "Y")->layout.n, 0);
    cr_assert(expr_is(p->k, buf_named(p, "r.pad")->dim[2], 9));
    for (uint32_t i = 0; i < p->k->stage.n; i++) /* nobody writes the unpadded one: its producer stores into the padded one */
        cr_assert_str_neq(p->k->buf.at[p->k->stage.at[i].out].name, "r");
    program_drop(p);
}

/* Weights that are stored as codes are weights: the output is computed with its channels last too. */
Test(layout, outputs_of_codes_are_turned)
{
    Program *p =
        laid_out("kernel k() { in X[1, 16, 9, 9] const Q: i8[32, 16, 3, 3] out Y[1, 32, 7, 7] tmp W[32, 16, 3, 3]"
                 " W[o, c, i, j] = f32(Q[o, c, i, j]) - 3"
                 " Y[n, o, h, w] = sum(c: 16, i: 3, j: 3) X[n, c, h + i, w + j] * W[o, c, i, j] }");
    expect_order(buf_named(p, "Y.last"), 4, (LayoutAxis[]){{0, 1, 0}, {2, 1, 0}, {3, 1, 0}, {1, 1, 0}});
    program_drop(p);
}

/* So is what is read in several places for each result, if its planes would begin in the same places of a cache. */
Test(layout, outputs_of_walks_are_turned)
{
#define FILL(size)                                                                                                     \
    "kernel k() { in F[1, 32, 33, 33] out Y[1, 32, " size ", " size                                                    \
    "] tmp T[1, 32, 33, 33] layout(0, 2, 3, 1) T[n, c, h, w] = tanh(F[n, c, h, w])"                                    \
    " Y[n, c, i, j] = T[n, c, i, j] + T[n, c, i + 1, j] + T[n, c, i, j + 1] }"
    Program *p = laid_out(FILL("32"));
    expect_order(buf_named(p, "Y.last"), 4, (LayoutAxis[]){{0, 1, 0}, {2, 1, 0}, {3, 1, 0}, {1, 1, 0}});
    program_drop(p);
    p = laid_out(FILL("31"));
    for (uint32_t b = 1; b < p->k->buf.n; b++) cr_expect_str_neq(p->k->buf.at[b].name, "Y.last");
    program_drop(p);
}

/* And what a window reads, whatever the planes. One place for each channel is side by side already. */
Test(layout, outputs_of_windows_are_turned)
{
#define POOL(size)                                                                                                     \
    "kernel k() { in F[1, 32, 33, 33] out Y[1, 32, " size ", " size                                                    \
    "] tmp T[1, 32, 33, 33] layout(0, 2, 3, 1) T[n, c, h, w] = tanh(F[n, c, h, w])"                                    \
    " Y[n, c, i, j] = max(a: 3, b: 3) T[n, c, i + a, j + b] }"
    Program *p = laid_out(POOL("31"));
    expect_order(buf_named(p, "Y.last"), 4, (LayoutAxis[]){{0, 1, 0}, {2, 1, 0}, {3, 1, 0}, {1, 1, 0}});
    program_drop(p);
    p = laid_out(POOL("1"));
    for (uint32_t b = 1; b < p->k->buf.n; b++) cr_expect_str_neq(p->k->buf.at[b].name, "Y.last");
    program_drop(p);
}

/* Channels that a result has side by side lie so in the image too, if it is read in several places and they fill lanes. */
Test(layout, inputs_that_are_walked_are_turned)
{
#define WALK(channels)                                                                                                 \
    "kernel k() { in X[1, " channels ", 9, 9] tmp T[8, 8, " channels "] out Y[8, 8, " channels                         \
    "] T[h, w, c] = X[0, c, h, w] + X[0, c, h + 1, w + 1]"                                                             \
    " Y[h, w, c] = T[h, w, c] * 2 }"
    Program *p = laid_out(WALK("32"));
    expect_order(buf_named(p, "X.last"), 4, (LayoutAxis[]){{0, 1, 0}, {2, 1, 0}, {3, 1, 0}, {1, 1, 0}});
    program_drop(p);
    p = laid_out(WALK("3"));
    for (uint32_t b = 1; b < p->k->buf.n; b++) cr_expect_str_neq(p->k->buf.at[b].name, "X.last");
    program_drop(p);
}

Test(layout, one_halo_serves_all_windows)
{
    Program *p = laid_out("kernel k() { in X[1, 4, 6, 6] out Y[1, 4, 6, 6], Z[1, 4, 6, 6] tmp a[1, 4, 6, 6]"
                          " a[n, c, h, w] = tanh(X[n, c, h, w])"
                          " Y[n, c, h, w] = max(i: 3, j: 3) guard(" INSIDE("h + i - 1", "6") " && " INSIDE("w + j - 1", "6")
                          ", a[n, c, h + i - 1, w + j - 1], -inf)"
                          " Z[n, c, h, w] = max(p: 5, q: 5) guard(" INSIDE("h + p - 2", "6") " && " INSIDE("w + q - 2", "6")
                          ", a[n, c, h + p - 2, w + q - 2], -inf) }");
    cr_assert(expr_is(p->k, buf_named(p, "a.pad")->dim[2], 10));
    program_drop(p);
}

Test(layout, other_pads_other_copies)
{
    Program *p = laid_out("kernel k() { in X[1, 4, 6, 6] out Y[1, 4, 6, 6], Z[1, 4, 6, 6] tmp a[1, 4, 6, 6]"
                          " a[n, c, h, w] = tanh(X[n, c, h, w])"
                          " Y[n, c, h, w] = max(i: 3, j: 3) guard(" INSIDE("h + i - 1", "6") " && " INSIDE("w + j - 1", "6")
                          ", a[n, c, h + i - 1, w + j - 1], -inf)"
                          " Z[n, c, h, w] = sum(i: 3, j: 3) guard(" INSIDE("h + i - 1", "6") " && " INSIDE("w + j - 1", "6")
                          ", a[n, c, h + i - 1, w + j - 1], 0) }");
    program_drop(p);
}

Test(layout, a_copy_is_old_when_its_source_is_written)
{ /* two pads, so nobody stores into the padded one; the last window sees the channel that was updated */
    Program *p = laid_out(
        "kernel k() { in X[1, 4, 6, 6], U[6, 6] out Y[1, 4, 6, 6], Z[1, 4, 6, 6], V[1, 4, 6, 6] tmp a[1, 4, 6, 6]"
        " a[n, c, h, w] = tanh(X[n, c, h, w])"
        " Y[n, c, h, w] = max(i: 3, j: 3) guard(" INSIDE("h + i - 1", "6") " && " INSIDE(
            "w + j - 1", "6") ", a[n, c, h + i - 1, w + j - 1], -inf)"
                              " Z[n, c, h, w] = sum(i: 3, j: 3) guard(" INSIDE("h + i - 1", "6") " && " INSIDE(
                                  "w + j - 1",
                                  "6") ", a[n, c, h + i - 1, w + j - 1], 0)"
                                       " a[0, 2, h, w] for h: 6, w: 6 = U[h, w]"
                                       " V[n, c, h, w] = max(i: 3, j: 3) guard(" INSIDE("h + i - 1", "6") " && " INSIDE(
                                           "w + j - 1", "6") ", a[n, c, h + i - 1, w + j - 1], -inf) }");
    program_drop(p);
}

/* Of a slice alone, and in the order in which it came when its channels are innermost there. */
Test(layout, a_window_over_a_slice_has_a_halo)
{
    Program *p = laid_out("kernel k() { in X: u8[1, 9, 40, 8] const F: i8[4, 3, 5, 8] out Y: i32[1, 9, 30, 4]"
                          " Y[n, y, x, o] = sum(i: 3, j: 5, c: 8) i32(guard(0 <= y + i - 1 && y + i - 1 < 9 && 0 <= x + j - 2 && x + j - 2 < 30, X[n, y + i - 1, x + j + 4, c], 7)) * i32(F[o, i, j, c]) }");
    const Buf *pad = buf_named(p, "X.pad");
    cr_expect(expr_is(p->k, pad->dim[1], 11) && expr_is(p->k, pad->dim[2], 34) && pad->layout.n == 0);
    program_drop(p);
}

Test(layout, a_guard_that_is_no_padding_stays)
{ /* every second element: a transposed convolution */
    program_drop(laid_out("kernel k() { in X[4] const W[4] out Y[8]"
                          " Y[h] = sum(i: 4) guard(0 <= h - i && h - i < 8 && (h + 8 - i) % 2 == 0, X[(h + 8 - i) / 2 - 4], 0) * W[i] }"));
}

Test(layout, columns_that_are_apart_are_packed)
{
    Program *p = laid_out("kernel k(S) { in Q[S, 32], K[S, 32] out Y[2, S, S] Y[h, s, t] = sum(d: 16) Q[s, h * 16 + d] * K[t, h * 16 + d] }");
    cr_assert_eq(p->k->stage.n, 2);
    program_drop(p);
    p = laid_out("kernel k(S) { in P[S, S], V[S, 32] out Y[S, 32] Y[s, n] = sum(t: S) P[s, t] * V[t, n] }"); /* these are adjacent */
    cr_assert_eq(p->k->stage.n, 1);
    program_drop(p);
}

Test(layout, constants_repeat_along_lanes)
{
    Program *p = laid_out("kernel k() { in X[5, 8] const W[8, 48], B[3, 1] out Y[3, 5, 16] tmp z[5, 48]"
                          " z[m, n] = sum(k: 8) X[m, k] * W[k, n]"
                          " Y[c, m, r] = z[m, r * 3 + c] + B[c, 0] }");
    const Buf *b = buf_named(p, "B.repeated");
    cr_assert(b->rank == 1 && b->data->dim[0] == 48 && b->layout.n == 0);
    program_drop(p);
}

Test(layout, depthwise_weights_follow_the_channels)
{
    Program *p = laid_out("kernel k() { in X[1, 20, 6, 6] const D[20, 1, 3, 3] out Y[1, 20, 4, 4] tmp a[1, 20, 6, 6] layout(0, 2, 3, 1), b[1, 20, 4, 4] layout(0, 2, 3, 1)"
                          " a[n, c, h, w] = tanh(X[n, c, h, w])"
                          " b[n, c, y, x] = sum(i: 3, j: 3) a[n, c, y + i, x + j] * D[c, 0, i, j]"
                          " Y[n, c, y, x] = exp(b[n, c, y, x]) * exp(b[n, c, 0, 0]) }");
    cr_assert_eq(buf_named(p, "D")->layout.axis[3].dim, 0);
    program_drop(p);
}

/* Two products share an image of the table; the look-up does not keep the table as it came beside it. */
Test(layout, what_is_looked_up_is_the_image_of_products)
{
    Program *p = laid_out("kernel k(M) { in I: i64[M], X[M, 20], Z[M, 20] const W[40, 20] out E[M, 20], Y[M, 40], V[M, 40]"
                          " E[m, k] = W[min(abs(I[m]), 39), k]"
                          " Y[m, n] = sum(k: 20) X[m, k] * W[n, k] V[m, n] = sum(k: 20) Z[m, k] * W[n, k] }");
    const Tensor *w = buf_named(p, "W")->data;
    int images = 0;
    for (uint32_t b = 1; b < p->k->buf.n; b++) {
        bool read = false;
        for (uint32_t i = 0; i < p->k->stage.n; i++) {
            LoadList l = {0};
            stage_loads(p->k, p->k->mem, &p->k->stage.at[i], &l);
            for (uint32_t j = 0; j < l.at.n; j++) read = read || expr_node(p->k, l.at.at[j])->id == b;
        }
        images += read && p->k->buf.at[b].data == w;
    }
    cr_expect_eq(images, 1);
    program_drop(p);
}
