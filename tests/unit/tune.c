/* Tuning: the schedule a kernel of each class gets, where it matters. */
#include "tests/unit/kernel_runs.h"

static Kernel *tuned(Program *p, const char *level)
{
    Kernel *k = NEW(&p->mem, Kernel);
    *k = *p->k;
    tune(k, target_find(level), false);
    return k;
}

static Kernel *tuned_small(Program *p, const char *level)
{
    Kernel *k = NEW(&p->mem, Kernel);
    *k = *p->k;
    tune(k, target_find(level), true);
    return k;
}

static int split_of(const Kernel *k, const char *axis, int part) /* the factor, or -1 */
{
    for (uint32_t i = 0; i < k->schedule.step.n; i++) {
        const Step *s = &k->schedule.step.at[i];
        if (s->what == STEP_SPLIT && !strcmp(k->axis.at[s->axis[0]].name, axis)) return part < s->n ? s->factor[part] : -1;
    }
    return -1;
}

static bool calls(const Kernel *k)
{
    for (uint32_t i = 0; i < k->schedule.step.n; i++)
        if (k->schedule.step.at[i].what == STEP_CALL) return true;
    return false;
}

Test(tune, register_tiles_fit_and_divide)
{
    Program *p = program_new("kernel k() { in A[56, 64] const W[64, 64] layout(1/16, 0, 1%16) out Y[56, 64] Y[m, n] = sum(k: 64) A[m, k] * W[k, n] }");
    static const struct { const char *level; int registers, per_panel; } row[] = {{"portable", 16, 4}, {"avx2", 16, 2}, {"avx512", 32, 1}};
    for (size_t i = 0; i < COUNT_OF(row); i++) {
        Kernel *k = tuned(p, row[i].level);
        int rows = split_of(k, "m", 0), cols = split_of(k, "n", 0);
        cr_assert(calls(k) && split_of(k, "n", 1) == 16);
        cr_assert_leq((rows * cols + cols) * row[i].per_panel, row[i].registers);
        cr_assert(row[i].per_panel > 1 || 56 % rows == 0, "%d rows on %s", rows, row[i].level);
        cr_assert_eq(4 % cols, 0);
    }
    cr_assert_geq(split_of(tuned(p, "avx512"), "m", 0) * split_of(tuned(p, "avx512"), "n", 0), 14);
    program_drop(p);
}

static const char *call_of(const Kernel *k)
{
    for (uint32_t i = 0; i < k->schedule.step.n; i++)
        if (k->schedule.step.at[i].what == STEP_CALL) return k->schedule.step.at[i].name;
    return "";
}

/* Tile registers pay for shorter sums of bf16, which vectors take apart, than of bytes. */
Test(tune, short_sums_take_tiles_where_vectors_are_slow)
{
    Program *p = program_new("kernel k() { in A: bf16[64, 16] const W: bf16[16, 64] layout(1/16, 0/2, 1%16, 0%2) out Y[64, 64]"
                             " Y[m, n] = sum(k: 16) f32(A[m, k]) * f32(W[k, n]) }");
    cr_assert_str_eq(call_of(tuned(p, "amx")), "tiles");
    cr_assert_str_eq(call_of(tuned(p, "avx512bf16")), "contract");
    program_drop(p);
    p = program_new("kernel k() { in A: u8[64, 16] const W: i8[16, 64] layout(1/16, 0/4, 1%16, 0%4) out Y: i32[64, 64]"
                    " Y[m, n] = sum(k: 16) i32(A[m, k]) * i32(W[k, n]) }");
    cr_assert_str_eq(call_of(tuned(p, "amx")), "contract");
    program_drop(p);
}

Test(tune, few_columns_need_no_tile)
{
    Program *p = program_new("kernel k() { in A[56, 576] const W[2, 576] out Y[56, 2] Y[m, n] = sum(k: 576) A[m, k] * W[n, k] }");
    cr_assert(!calls(tuned(p, "avx512")) && split_of(tuned(p, "avx512"), "k", 0) == 16, "terms in lanes");
    cr_expect_eq(split_of(tuned(p, "avx512"), "m", 0), 6);
    cr_expect_eq(split_of(tuned(p, "avx2"), "m", 0), 3);
    program_drop(p);
    p = program_new("kernel k() { in A[56, 576] const W[0, 576] out Y[56, 0] Y[m, n] = sum(k: 576) A[m, k] * W[n, k] }");
    cr_assert_not(calls(tuned(p, "avx512")));
    program_drop(p);
    p = program_new("kernel k() { in A[56, 32] const W[7, 32] layout(0/16, 1, 0%16) out Y[56, 7] Y[m, n] = sum(k: 32) A[m, k] * W[n, k] }");
    cr_assert(calls(tuned(p, "avx512")), "so short a sum is made before its lanes could be added up");
    program_drop(p);
    p = program_new("kernel k() { in A: u8[56, 64] const W: i8[4, 64] layout(0/16, 1/4, 0%16, 1%4) out Y: i32[56, 4]"
                    " Y[m, n] = sum(k: 64) i32(A[m, k]) * i32(W[n, k]) }"); /* unless an instruction sums four terms */
    cr_assert(calls(tuned(p, "avx512vnni")));
    program_drop(p);
}

static bool is_parallel(const Kernel *k, const char *axis)
{
    for (uint32_t i = 0; i < k->schedule.step.n; i++) {
        const Step *s = &k->schedule.step.at[i];
        if (s->what == STEP_LOOP && s->loop == LOOP_PARALLEL && !strcmp(k->axis.at[s->axis[0]].name, axis)) return true;
    }
    return false;
}

#define STEP_OF_BYTES(B) \
    "kernel k(B) { in X[9, " B ", 64] const W: i8[64, 64] layout(0/16, 1/4, 0%16, 1%4) out Y[10, " B ", 64] tmp m[9, " B "], u: u8[9, " B ", 64]" \
    " m[t, b] = max(c: 64) Y[t, b, c] scan t u[t, b, i] = sat_u8(rint(Y[t, b, i] / m[t, b])) scan t" \
    " Y[t + 1, b, j] for t: 9, b: " B ", j: 64 = sum(k: 64) i32(u[t, b, k]) * i32(W[j, k]) then f32(it) * m[t, b] + X[t, b, j] scan t }"

/* A step of a recurrence reads its weights once for four entries of the batch, or for several vectors of columns of one; bytes, whose rows have stages of
 * their own before the product, as well. */
Test(tune, steps_read_weights_for_several_entries)
{
    static const char *const batches[] = {"8", "B", "1"};
    for (size_t i = 0; i < COUNT_OF(batches); i++) {
        char text[700];
        snprintf(text, sizeof text,
                 "kernel k(B) { in X[9, %1$s, 64] const W[64, 64] layout(1/16, 0, 1%%16) out Y[10, %1$s, 64] tmp g[9, %1$s, 64]"
                 " g[t, b, j] = sum(k: 64) Y[t, b, k] * W[k, j] then it + X[t, b, j] scan t"
                 " Y[t + 1, b, j] for t: 9, b: %1$s, j: 64 = min(max(g[t, b, j], -1), 1) scan t }",
                 batches[i]);
        Program *p = program_new(text);
        Kernel *k = tuned(p, "avx512");
        cr_expect(calls(k), "%s entries", batches[i]);
        if (i < 2) cr_expect_eq(split_of(k, "b", 0), 4);
        cr_expect_geq(split_of(k, "j", 0), 4);
        program_drop(p);
    }
    Program *p = program_new(STEP_OF_BYTES("8"));
    Kernel *k = tuned(p, "avx512vnni");
    const char *error = "";
    cr_expect(calls(k) && split_of(k, "b", 0) == 4);
    cr_expect(schedule_apply(k, &error), "%s", error);
    program_drop(p);
}

/* Fewer columns than a panel has are outermost for tiles, and nothing to share out. */
Test(tune, threads_share_rows_of_few_columns)
{
    Program *p = program_new("kernel k() { in A: u8[32, 40, 128] const W: i8[8, 128] layout(0/16, 1/4, 0%16, 1%4) out Y: i32[32, 40, 8]"
                             " Y[b, m, n] = sum(k: 128) i32(A[b, m, k]) * i32(W[n, k]) }");
    cr_expect_str_eq(call_of(tuned(p, "amx")), "tiles");
    cr_expect(is_parallel(tuned(p, "amx"), "b"));
    program_drop(p);
}

Test(tune, windows_over_free_sizes_share_what_they_read)
{
    Program *p = program_new("kernel k(S) { in X[32, S + 2] layout(1, 0) const W[32, 3] layout(1, 0) out Y[32, S] layout(1, 0)"
                             " Y[c, x] = sum(i: 3) X[c, x + i] * W[c, i] }");
    cr_assert_eq(split_of(tuned(p, "avx512"), "x", 0), 7);
    cr_assert_eq(split_of(tuned(p, "avx2"), "x", 0), 4);
    program_drop(p);
    p = program_new("kernel k(S) { in X[S, 32, 9] layout(0, 2, 1) const W out Y[S, 32]" /* a batch may be one */
                    " Y[n, c] = sum(i: 9) X[n, c, i] then it * W }");
    cr_assert_eq(split_of(tuned(p, "avx512"), "n", 0), -1);
    program_drop(p);
}

static const char *loop_at(const Kernel *k, int i) /* the axis that loop i of the order goes along */
{
    const Step *s = k->schedule.step.at;
    while (s->what != STEP_ORDER) s++;
    int a = s->axis[i];
    return k->axis.at[k->axis.at[a].parent ? k->axis.at[a].parent : a].name;
}

/* Looked up in two directions, an image of a free batch and free sizes has its channels in lanes: of entries there is mostly one. */
Test(tune, lanes_are_no_free_batch)
{
#define TAP(down, right) "X[b, c, max(min(I[h] + " down ", 23), 0), max(min(J[w] + " right ", 23), 0)]"
    Program *p = program_new("kernel k(B, H, W) { in X[B, 32, 24, 24], I: i64[H], J: i64[W], U[W], V[H] out Y[B, 32, H, W] Y[b, c, h, w] = (" TAP("0", "0") " * (1 - U[w]) + " TAP("0", "1")
                             " * U[w]) * (1 - V[h]) + (" TAP("1", "0") " * (1 - U[w]) + " TAP("1", "1") " * U[w]) * V[h] }");
    Kernel *k = tuned(p, "avx512");
    cr_expect_eq(split_of(k, "b", 0), -1);
    cr_expect_gt(split_of(k, "c", 0), 1);
    program_drop(p);
}

/* A sum over neighbouring channels (LRN): what is done once a result is done in lanes, however little there is to sum. */
Test(tune, results_are_in_lanes_where_their_terms_may_be)
{
    Program *p = program_new("kernel k() { in X[64, 68] out Y[64, 64] Y[p, c] = sum(d: 5) X[p, c + d] * X[p, c + d] then X[p, c + 2] / pow(it * 0.5 + 1, 0.75) }");
    Kernel *k = tuned(p, "avx512");
    cr_expect_eq(split_of(k, "c", 0), 16);
    cr_expect_eq(split_of(k, "d", 0), -1);
    program_drop(p);
    p = program_new("kernel k() { in X[64, 64, 5], Z[64, 64] out Y[64, 64] Y[p, c] = sum(d: 5) X[p, c, d] * X[p, c, d] then Z[p, c] / pow(it * 0.5 + 1, 0.75) }");
    k = tuned(p, "avx512");
    cr_expect_gt(split_of(k, "d", 0), 1, "terms that lie side by side, results that do not");
    program_drop(p);
    p = program_new("kernel k(C) { in X[64, C + 15], V[64, C + 15], W[64, C + 15] out Y[64, C] Y[p, c] = sum(d: 16) X[p, c + d] * V[p, c + d] * W[p, c + d] }");
    k = tuned(p, "avx512");
    cr_expect_eq(split_of(k, "c", 0), 16, "results that are stored side by side are no batch of one, however many there are");
    program_drop(p);
}

/* Rows of an image come before its channels, however wide it is. Weights of bf16 are widened for a row of results. */
Test(tune, windows_go_along_rows)
{
#define IMAGE(type, high, wide)                                                                                                           \
    "kernel k(H, W) { in X: " type "[256, " high " + 2, " wide " + 2] layout(1, 2, 0) const W: " type "[256, 3, 3] layout(1, 2, 0) out Y[256, " high ", " wide "] layout(1, 2, 0)" \
    " Y[c, y, x] = sum(i: 3, j: 3) f32(X[c, y + i, x + j]) * f32(W[c, i, j]) }"
    static const struct {
        const char *text, *order;
    } window[] = {{IMAGE("f32", "H", "W"), "yxc"}, {IMAGE("f32", "112", "112"), "yxc"}, {IMAGE("bf16", "H", "W"), "ycx"}, {IMAGE("bf16", "112", "112"), "ycx"}};
    for (size_t i = 0; i < COUNT_OF(window); i++) {
        Program *p = program_new(window[i].text);
        Kernel *k = tuned(p, "avx512");
        for (int j = 0; j < 3; j++) cr_expect_eq(*loop_at(k, j), window[i].order[j], "window %zu, loop %d: %s", i, j, loop_at(k, j));
        program_drop(p);
    }
}

Test(tune, little_code_of_windows_takes_neighbours_where_registers_hold_some)
{
    Program *p = program_new("kernel k(S) { in X[32, S + 2] layout(1, 0) const W[32, 3] layout(1, 0) out Y[32, S] layout(1, 0)"
                             " Y[c, x] = sum(i: 3) X[c, x + i] * W[c, i] }");
    cr_assert_eq(split_of(tuned_small(p, "avx2"), "x", 0), 4);
    cr_assert_eq(split_of(tuned_small(p, "portable"), "x", 0), -1);
    program_drop(p);
}

Test(tune, little_code_of_maps_has_one_register)
{
    Program *p = program_new("kernel k() { in X[7, 640] out Y[7, 640] Y[i, c] = exp(X[i, c]) }");
    cr_assert_eq(split_of(tuned_small(p, "portable"), "c", 0), 4);
    cr_assert_eq(split_of(tuned_small(p, "avx2"), "c", 0), 8);
    cr_assert_eq(split_of(tuned_small(p, "avx512"), "c", 0), 16);
    program_drop(p);
}

Test(tune, little_code_of_fills_is_plain_loops_where_lanes_lie_apart)
{
    Program *p = program_new("kernel k() { out Y: u8[7, 640, 3] Y[i, j, c] = 126 }");
    cr_assert_eq(split_of(tuned(p, "avx2"), "j", 0), 16);
    cr_assert_eq(split_of(tuned_small(p, "avx2"), "j", 0), -1);
    program_drop(p);
    p = program_new("kernel k() { out Y: u8[7, 640, 32] Y[i, j, c] = 126 }"); /* side by side: a store for many */
    cr_assert_eq(split_of(tuned_small(p, "avx512"), "c", 0), 16);
    program_drop(p);
}

Test(tune, bytes_are_summed_by_fours)
{
    Program *p = program_new("kernel k() { in A: u8[14, 64] const W: i8[32, 64] layout(0/16, 1/4, 0%16, 1%4) out Y: i32[14, 32]"
                             " Y[m, n] = sum(k: 64) i32(A[m, k]) * i32(W[n, k]) }");
    cr_assert_eq(split_of(tuned(p, "avx512vnni"), "k", 0), 4);
    program_drop(p);
}

Test(tune, what_interleaves_is_woven)
{
    Program *p = program_new("kernel k() { in X[3, 20, 64] out Y: u8[3, 20, 64] layout(1, 2, 0) Y[c, h, w] = sat_u8(rint(X[c, h, w]) + 1) }");
    cr_assert_eq(split_of(tuned(p, "avx2"), "w", 0), 16);
    cr_assert_eq(split_of(tuned(p, "avx2"), "c", 0), -1);
    program_drop(p);
    p = program_new("kernel k() { in X[20, 112] out Y[20, 112] Y[i, j] = X[i, j % 4 * 28 + j / 4] }");
    Kernel *k = tuned(p, "avx2");
    cr_assert(split_of(k, "j", 0) == 16 && split_of(k, "j", 1) == 4);
    program_drop(p);
}

/* An image with its channels last, enlarged into rows: lanes store rows, and blocks of channels around them read lines once. */
Test(tune, what_turns_and_repeats_is_tiled)
{
    Program *p = program_new(
        "kernel k() { in X[32, 16, 16] layout(1, 2, 0) out Y[32, 32, 32] Y[c, h, w] = X[c, h / 2, w / 2] }");
    Kernel *k = tuned(p, "avx512");
    cr_assert(split_of(k, "w", 0) == 16 && split_of(k, "c", 0) == 16);
    program_drop(p);
}

/* Lanes of an axis that chooses among formulas would compute all of them. */
Test(tune, choices_are_no_lanes)
{
    Program *p = program_new("kernel k() { in X[16, 32] out Y[32, 16, 4] Y[c, t, i] = guard(i == 0, X[t, c] + 1, "
                             "guard(i == 1, X[t, c] * 2, X[t, c])) }");
    Kernel *k = tuned(p, "avx512");
    cr_assert_eq(split_of(k, "i", 0), -1);
    cr_assert_gt(split_of(k, "c", 0), 1);
    program_drop(p);
}

/* Both planes of an image of few channels: the lanes of each are its columns, so the loop over columns is not shared. */
Test(tune, stages_that_interleave_keep_their_lanes)
{
    Program *p = program_new("kernel k() { in A[4, 9, 40] out Y[2, 4, 9, 40] layout(0, 2, 3, 1)"
                             " Y[0, c, h, w] for c: 4, h: 9, w: 40 = A[c, h, w] share 1"
                             " Y[1, d, h, w] for d: 4, h: 9, w: 40 = A[d, h, w] * 2 share 1 }");
    Kernel *k = tuned(p, "avx512");
    cr_assert(split_of(k, "w", 0) == 16 && split_of(k, "c", 0) == -1 && split_of(k, "d", 0) == -1);
    program_drop(p);
}

Test(tune, windows_keep_their_rows_in_the_cache)
{
    Program *p = program_new("kernel k() { in X[240, 32, 32] layout(1, 2, 0) const W[240, 5, 5] layout(1, 2, 0) out Y[240, 28, 28] layout(1, 2, 0)"
                             " Y[c, h, w] = sum(i: 5, j: 5) X[c, h + i, w + j] * W[c, i, j] }");
    Kernel *k = tuned(p, "avx512");
    cr_assert(split_of(k, "c", 0) == 3 && split_of(k, "c", 1) == 16, "all of five rows are more than a cache");
    program_drop(p);
    p = program_new("kernel k() { in X[32, 32, 32] layout(1, 2, 0) const W[32, 5, 5] layout(1, 2, 0) out Y[32, 28, 28] layout(1, 2, 0)"
                    " Y[c, h, w] = sum(i: 5, j: 5) X[c, h + i, w + j] * W[c, i, j] }");
    cr_assert_eq(split_of(tuned(p, "avx512"), "c", 0), 16);
    program_drop(p);
}

/* Where one instruction sums two bf16 products: neighbours in registers, the rows of the window by twos, channels of what the cache keeps. */
Test(tune, windows_of_bf16_are_called)
{
    Program *p = program_new("kernel k() { in X: bf16[240, 32, 32] layout(1, 2, 0) const W: bf16[240, 5, 5] layout(1, 2, 0) out Y[240, 28, 28] layout(1, 2, 0)"
                             " Y[c, h, w] = sum(i: 5, j: 5) f32(X[c, h + i, w + j]) * f32(W[c, i, j]) }");
    Kernel *k = tuned(p, "avx512bf16");
    cr_assert(calls(k) && split_of(k, "w", 0) == 14 && split_of(k, "i", 0) == 2 && split_of(k, "c", 0) == 3);
    cr_assert_not(calls(tuned(p, "avx512")) || calls(tuned(p, "amx")));
    program_drop(p);
    p = program_new("kernel k() { in X[32, 9, 9] layout(1, 2, 0) const W: bf16[32, 3, 3] layout(1, 2, 0) out Y[32, 7, 7] layout(1, 2, 0)"
                    " Y[c, h, w] = sum(i: 3, j: 3) X[c, h + i, w + j] * f32(W[c, i, j]) }");
    cr_assert_not(calls(tuned(p, "avx512bf16")), "a factor is f32");
    program_drop(p);
    static const struct { const char *of; bool is; } pool[] = {{"max(i: 3, j: 3) f32(B[c, h * 2 + i, w * 2 + j])", true}, {"sum(i: 3, j: 3) f32(B[c, h * 2 + i, w * 2 + j])", true},
                                                               {"max(i: 3, j: 3) X[c, h * 2 + i, w * 2 + j]", true}, {"sum(i: 3, j: 3) X[c, h * 2 + i, w * 2 + j]", false}};
    for (size_t i = 0; i < COUNT_OF(pool); i++) { /* f32 sums keep their order */
        char text[300];
        snprintf(text, sizeof text, "kernel k() { in X[64, 29, 29] layout(1, 2, 0), B: bf16[64, 29, 29] layout(1, 2, 0) out Y[64, 14, 14] layout(1, 2, 0) Y[c, h, w] = %s }", pool[i].of);
        p = program_new(text);
        cr_expect_eq(calls(tuned(p, "avx512")), pool[i].is, "%s", pool[i].of);
        cr_expect_not(calls(tuned(p, "avx2")));
        program_drop(p);
    }
}

/* Copies into panels: pieces of the axis behind the lanes, and for dot products words of several values. */
Test(tune, panels_are_written_in_pieces)
{
    Program *p = program_new("kernel k() { in X[512, 96] out Y[512, 96] layout(1/16, 0, 1%16) Y[k, n] = X[k, n] }");
    cr_assert_eq(split_of(tuned(p, "avx512"), "k", 0), 64);
    program_drop(p);
    static const struct { const char *text; int word; } row[] = {
        {"kernel k() { in X: i8[64, 96] out Y: i8[64, 96] layout(1/16, 0/4, 1%16, 0%4) Y[k, n] = X[k, n] }", 4},
        {"kernel k() { in X: f16[64, 96] out Y: f16[64, 96] layout(1/16, 0/2, 1%16, 0%2) Y[k, n] = X[k, n] }", 2}};
    for (size_t i = 0; i < COUNT_OF(row); i++) {
        p = program_new(row[i].text);
        int word = split_of(tuned(p, "avx512"), "k", 0);
        cr_expect_eq(word, row[i].word, "kernel %zu: %d", i, word);
        program_drop(p);
    }
}

/* One form of a tile for little code, but not where a vector would take the time of a tile. */
Test(tune, a_batch_may_be_one)
{
    static const struct { const char *text; bool guards; } row[] = {
        {"kernel k(M) { in A[M, 64] const W[64, 64] layout(1/16, 0, 1%16) out Y[M, 64] Y[m, n] = sum(k: 64) A[m, k] * W[k, n] }", false},
        {"kernel k(B, M) { in A[B, M, 64] const W[64, 64] layout(1/16, 0, 1%16) out Y[B, M, 64] Y[b, m, n] = sum(k: 64) A[b, m, k] * W[k, n] }", false},
        {"kernel k(M) { in A[5, M, 64] const W[64, 64] layout(1/16, 0, 1%16) out Y[5, M, 64] Y[b, m, n] = sum(k: 64) A[b, m, k] * W[k, n] }", true},
        {STEP_OF_BYTES("B"), false},
        {STEP_OF_BYTES("8"), true}};
    for (size_t i = 0; i < COUNT_OF(row); i++) {
        Program *p = program_new(row[i].text);
        Kernel *k = NEW(&p->mem, Kernel);
        *k = *p->k;
        tune(k, target_find("avx2"), true);
        bool guards = false;
        for (uint32_t s = 0; s < k->schedule.step.n; s++) guards = guards || k->schedule.step.at[s].what == STEP_GUARD;
        cr_expect(calls(k) && guards == row[i].guards, "kernel %zu", i);
        program_drop(p);
    }
}

Test(tune, again_for_another_target)
{
    Program *p = program_new("kernel k() { in A[56, 64] out Y[56, 64] Y[m, n] = exp(A[m, n]) }");
    uint32_t axes = p->k->axis.n;
    Kernel *k = tuned(p, "avx512"), *again = NEW(&p->mem, Kernel);
    *again = *k;
    tune(again, target_find("avx2"), false);
    cr_assert_eq(p->k->axis.n, axes);
    cr_assert_eq(again->axis.n, k->axis.n);
    const char *error;
    cr_assert(schedule_apply(k, &error) && schedule_apply(again, &error));
    program_drop(p);
}

Test(tune, parallel_work_is_not_split_too_fine)
{
    Program *p = program_new("kernel k() { in A[4, 64] out Y[4, 64] Y[m, n] = exp(A[m, n]) }");
    Kernel *s = kernel_scheduled(p->k, "avx512");
    int64_t range;
    cr_assert(expr_is_index(s, kernel_range(s), &range) && range <= 4);
    program_drop(p);
    p = program_new("kernel k() { in A[1000000] out Y[1000000] Y[m] = exp(A[m]) }");
    s = kernel_scheduled(p->k, "avx512");
    cr_assert(expr_is_index(s, kernel_range(s), &range) && range >= 48);
    program_drop(p);
}

Test(tune, levels_are_rows)
{
    cr_assert_null(target_find("pentium"));
    cr_assert_str_eq(target_at(0)->name, "portable");
    for (uint32_t i = 1; target_at(i) && !target_at(i)->gpu; i++) cr_assert_geq(target_at(i)->lanes, target_at(i - 1)->lanes);
}

/* Vectors are taken together to fill a few registers, of which a level of narrow ones needs several for one vector. */
Test(tune, vectors_together_fill_four_registers)
{
    Program *p = program_new("kernel k(S) { in X[8, S] out Y[8] Y[r] = sum(i: S) X[r, i] }");
    cr_expect_eq(split_of(tuned(p, "avx512"), "i", 0), 4);
    cr_expect_eq(split_of(tuned(p, "avx2"), "i", 0), 2);
    cr_expect_eq(split_of(tuned(p, "portable"), "i", 0), 16, "one vector");
    program_drop(p);
}
