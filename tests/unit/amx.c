/* Tile registers without a processor that has them: the instructions are emulated exactly as the manual says, faults included, and
 * whole kernels must give what the interpreter gives, with every buffer between unmapped pages. */
#include "codegen/codegen.h"
#include <criterion/criterion.h>
#include <math.h>
#include <sys/mman.h>

/* ---- the tile unit ---- */
enum { TILES = 8, TILE_ROWS = 16, ROW_BYTES = 64 };
static struct Unit {
    int palette, rows[TILES], colsb[TILES];
    uint8_t data[TILES][TILE_ROWS][ROW_BYTES];
    int configured, dots; /* how often */
} unit;

static void emu_configure(const void *config)
{
    const uint8_t *c = config;
    memset(unit.data, 0, sizeof unit.data);
    cr_assert(c[0] == 1 && c[1] == 0, "palette 1, start row 0");
    for (int i = 2; i < 16; i++) cr_assert_eq(c[i], 0);
    for (int t = 0; t < 16; t++) {
        int colsb = c[16 + 2 * t] | c[17 + 2 * t] << 8, rows = c[48 + t];
        cr_assert(t < TILES || (!colsb && !rows), "there are eight tiles");
        cr_assert(colsb <= ROW_BYTES && rows <= TILE_ROWS && !colsb == !rows, "tile %d: %d x %d", t, rows, colsb);
        if (t < TILES) unit.colsb[t] = colsb, unit.rows[t] = rows;
    }
    unit.palette = 1, unit.configured++;
}

static void usable(int t)
{
    cr_assert(unit.palette == 1 && t >= 0 && t < TILES && unit.rows[t], "tile %d is not configured", t);
}

static void emu_zero(int32_t t)
{
    usable(t);
    memset(unit.data[t], 0, sizeof unit.data[t]);
}

static void emu_load(int32_t t, const void *at, int64_t step)
{
    emu_zero(t);
    for (int r = 0; r < unit.rows[t]; r++) memcpy(unit.data[t][r], (const char *)at + r * step, (size_t)unit.colsb[t]);
}

static void emu_store(int32_t t, void *at, int64_t step)
{
    usable(t);
    for (int r = 0; r < unit.rows[t]; r++) memcpy((char *)at + r * step, unit.data[t][r], (size_t)unit.colsb[t]);
}

static void dot_bytes(int32_t c, int32_t a, int32_t b, bool signed_left, bool signed_right)
{
    usable(a), usable(b), usable(c), unit.dots++;
    cr_assert(a != b && b != c && a != c, "three different tiles");
    cr_assert(unit.colsb[c] == unit.colsb[b] && unit.rows[c] == unit.rows[a] && unit.colsb[a] == 4 * unit.rows[b]);
    for (int m = 0; m < unit.rows[c]; m++)
        for (int n = 0; n < unit.colsb[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &unit.data[c][m][4 * n], 4);
            for (int k = 0; k < unit.colsb[a]; k++) {
                uint8_t left = unit.data[a][m][k], right = unit.data[b][k / 4][4 * n + k % 4];
                int product = (signed_left ? (int8_t)left : left) * (signed_right ? (int8_t)right : right);
                sum = (int32_t)((uint32_t)sum + (uint32_t)product);
            }
            memcpy(&unit.data[c][m][4 * n], &sum, 4);
        }
    for (int m = unit.rows[c]; m < TILE_ROWS; m++) memset(unit.data[c][m], 0, ROW_BYTES);
}

static void emu_dot(int32_t c, int32_t a, int32_t b) { dot_bytes(c, a, b, false, true); }
static void emu_dot_codes(int32_t c, int32_t a, int32_t b) { dot_bytes(c, a, b, true, false); }

static float bf16_at(const uint8_t *at)
{
    uint32_t bits = (uint32_t)(at[0] | at[1] << 8) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Even and odd products are summed apart over the whole depth, then added to the sum. */
static void emu_dot_bf16(int32_t c, int32_t a, int32_t b)
{
    usable(a), usable(b), usable(c), unit.dots++;
    cr_assert(a != b && b != c && a != c, "three different tiles");
    cr_assert(unit.colsb[c] == unit.colsb[b] && unit.rows[c] == unit.rows[a] && unit.colsb[a] == 4 * unit.rows[b]);
    for (int m = 0; m < unit.rows[c]; m++)
        for (int n = 0; n < unit.colsb[c] / 4; n++) {
            float sum, half[2] = {0, 0};
            memcpy(&sum, &unit.data[c][m][4 * n], 4);
            for (int k = 0; k < unit.colsb[a] / 2; k++)
                half[k % 2] = fmaf(bf16_at(&unit.data[a][m][2 * k]), bf16_at(&unit.data[b][k / 2][4 * n + k % 2 * 2]),
                                   half[k % 2]);
            sum += half[0] + half[1];
            memcpy(&unit.data[c][m][4 * n], &sum, 4);
        }
    for (int m = unit.rows[c]; m < TILE_ROWS; m++) memset(unit.data[c][m], 0, ROW_BYTES);
}

static const TileEmulator emulator = {emu_configure, emu_zero,      emu_load,    emu_store,
                                      emu_dot,       emu_dot_codes, emu_dot_bf16};

static Target emulated(void)
{
    Target t = *target_find("amx");
    t.emulate = &emulator;
    return t;
}

static bool host_has(const char *level) { return !(target_find(level)->needs & ~target_host_features()); }

/* ---- memory that faults on either side ---- */
typedef struct Fence {
    char *map, *at;
    size_t bytes;
} Fence;

static Fence fence_new(size_t n, bool at_end)
{
    enum { PAGE = 4096 };
    size_t room = (n + PAGE - 1) / PAGE * PAGE;
    Fence f = {.bytes = room + 2 * PAGE};
    f.map = mmap(NULL, f.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(f.map != MAP_FAILED && (!room || !mprotect(f.map + PAGE, room, PROT_READ | PROT_WRITE)));
    f.at = f.map + PAGE + (at_end ? room - n : 0);
    return f;
}

/* ---- a kernel: interpreted, with vectors, with tiles ---- */
enum { MAX_BUFS = 8 };
typedef struct Session {
    Arena mem;
    Diag diag;
    LlvmJit *jit;
    Target tiles;
} Session;

static Session *session_new(void)
{
    Arena first = {0};
    Session *s = NEW(&first, Session);
    s->mem = first, s->diag = (Diag){.mem = &s->mem, .subject = ""}, s->tiles = emulated();
    s->jit = llvm_jit_new(&s->diag);
    cr_assert(s->jit);
    return s;
}

static void session_drop(Session *s)
{
    llvm_jit_drop(s->jit);
    Arena mem = s->mem;
    arena_drop(&mem);
}

typedef struct Code {
    Kernel *k[2];
    OctetKernel f[2];
} Code; /* vectors, tiles */

/* A text without a schedule is tuned for its level. */
static Code code_new(Session *s, const char *text)
{
    Code c;
    const Target *level[2] = {target_find("avx512vnni"), &s->tiles};
    for (int i = 0; i < 2; i++) {
        const char *error = "";
        Kernel *k = kernel_parse(&s->mem, dims_new(&s->mem), text, &s->diag);
        if (!k) diag_print(&s->diag, stderr);
        cr_assert(k, "%s", text);
        if (!k->schedule.step.n) tune(k, level[i], false);
        c.k[i] = schedule_apply(k, &error);
        cr_assert(c.k[i], "%s: %s", text, error);
        c.f[i] = llvm_jit_add(s->jit, &(LlvmJob){c.k[i], level[i], "kernel", false});
        cr_assert(c.f[i]);
    }
    return c;
}

static int64_t number(const Kernel *k, Expr e, const int64_t *size)
{
    const ExprNode n = *expr_node(k, e);
    int64_t v = n.u.i;
    if (n.kind == E_SYM) cr_assert(dim_eval(k->dim, (Dim){n.id}, size, &v));
    if (n.kind != E_PRIM) return v;
    int64_t a = number(k, n.arg[0], size), b = number(k, n.arg[1], size);
    return n.prim == P_add   ? a + b
           : n.prim == P_sub ? a - b
           : n.prim == P_mul ? a * b
           : n.prim == P_div ? a / b
           : a > b           ? a
                             : b;
}

static void fill(const Buf *b, char *at, int64_t n, uint32_t *seed)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t r = (*seed = *seed * 1664525u + 1013904223u) >> 8;
        if (b->type == DT_f32 && !strcmp(b->name, "R")) /* whole, as sums of codes are */
            dtype_store(b->type, at, i, (double)(r % 4001) - 2000);
        else if (b->type == DT_f32) dtype_store(b->type, at, i, (double)(r % 4001) / 700);
        else if (b->type == DT_bf16)
            dtype_store(b->type, at, i, (double)(r % 17) - 8); /* sums of these are exact in any order */
        else dtype_store_int(b->type, at, i, (int64_t)(r % 256) - (b->type == DT_u8 ? 0 : 128));
    }
}

/* Runs all three and compares. Yields how many tile products there were. */
static int code_run(const Code *c, const int64_t *size, uint32_t seed)
{
    Fence mem[3][MAX_BUFS];
    uint32_t params = kernel_params(c->k[0]);
    unit = (struct Unit){0};
    cr_assert(params <= MAX_BUFS);
    for (uint32_t i = 0; i < params; i++) {
        const Buf *b = &c->k[0]->buf.at[i + 1];
        int64_t n = number(c->k[0], buf_elements(c->k[0], (int)i + 1), size);
        for (int w = 0; w < 3; w++) mem[w][i] = fence_new((size_t)(n * dtypes[b->type].bytes), (seed + i) % 3 != 0);
        fill(b, mem[0][i].at, n, &seed);
        for (int w = 1; w < 3; w++) memcpy(mem[w][i].at, mem[0][i].at, (size_t)(n * dtypes[b->type].bytes));
    }
    for (int w = 0; w < 3; w++) {
        void *buf[MAX_BUFS], *all[64] = {NULL};
        for (uint32_t i = 0; i < params; i++) buf[i] = all[i + 1] = mem[w][i].at;
        if (w == 0) {
            cr_assert_eq(interp_loops(c->k[1], size, all), 0);
            continue;
        }
        int64_t range = number(c->k[w - 1], kernel_range(c->k[w - 1]), size), half = range / 2;
        if (half) cr_assert_eq(c->f[w - 1](buf, size, 0, half, NULL), 0);
        cr_assert_eq(c->f[w - 1](buf, size, half, range, NULL), 0);
    }
    for (uint32_t i = 0; i < params; i++) {
        const Buf *b = &c->k[0]->buf.at[i + 1];
        size_t n = (size_t)(number(c->k[0], buf_elements(c->k[0], (int)i + 1), size) * dtypes[b->type].bytes);
        for (int w = 1; w < 3; w++)
            cr_assert(!n || !memcmp(mem[0][i].at, mem[w][i].at, n), "%s with %s, sizes %ld %ld %ld: %s differs",
                      c->k[0]->name, w == 1 ? "vectors" : "tiles", (long)size[0], (long)size[1], (long)size[2],
                      b->name);
        for (int w = 0; w < 3; w++) munmap(mem[w][i].map, mem[w][i].bytes);
    }
    return unit.dots;
}

/* clang-format off */
#define GEMM_HEAD "in A: u8[M, K] const W: i8[N, K] layout(0/16, 1/4, 0%%16, 1%%4) in B[N] out Y: u8[M, N]"                                   \
    " Y[m, n] = sum(k: K) i32(A[m, k]) * i32(W[n, k]) then sat_u8(rint(f32(it) * 0.002 + B[n]) + 12)"
#define GEMM16_HEAD "in A: bf16[M, K] const W: bf16[N, K] layout(0/16, 1/2, 0%%16, 1%%2) in B[N] out Y[M, N]"                                 \
    " Y[m, n] = sum(k: K) f32(A[m, k]) * f32(W[n, k]) then max(it * 0.5 + B[n], 0)"
#define GEMM_LOOPS "unroll m.1 n.1 k.1; vectorize n.2; call tiles k.0 }"
/* clang-format on */

static uint32_t next(uint32_t *s) { return (*s = *s * 1664525u + 1013904223u) >> 8; }

/* Any size with one piece of code: rows in full calls, whole tiles of the last one, and vectors; words in steps and vectors. */
Test(amx, sizes_known_when_it_runs)
{
    static const struct {
        int rows, cols;
        const char *order;
    } shape[] = {{32, 2, "order n.0 m.0 k.0 m.1 n.1 n.2 k.1; parallel n.0"},
                 {64, 1, "order m.0 n.0 k.0 m.1 n.1 n.2 k.1; parallel m.0 n.0"},
                 {16, 4, "order m.0 n.0 k.0 m.1 n.1 n.2 k.1; parallel m.0"},
                 {49, 3, "order n.0 m.0 k.0 m.1 n.1 n.2 k.1; parallel n.0"},
                 {23, 2, "order m.0 n.0 k.0 m.1 n.1 n.2 k.1; parallel m.0 n.0"},
                 {3, 1, "order n.0 m.0 k.0 m.1 n.1 n.2 k.1"}};
    if (!host_has("avx512vnni")) cr_skip("needs AVX-512 VNNI");
    Session *s = session_new();
    for (size_t both = 0; both < 2 * COUNT_OF(shape); both++) {
        size_t i = both / 2;
        Code c = code_new(s, arena_printf(&s->mem,
                                          both % 2 ? "kernel gemm16(M, N, K) { " GEMM16_HEAD
                                                     " schedule: split m %d; split n %d 16; split k 2; %s; " GEMM_LOOPS
                                                   : "kernel gemm(M, N, K) { " GEMM_HEAD
                                                     " schedule: split m %d; split n %d 16; split k 4; %s; " GEMM_LOOPS,
                                          shape[i].rows, shape[i].cols, shape[i].order));
        static const int64_t fixed[][3] = {{0, 16, 64}, {1, 1, 1},     {64, 32, 64}, {50, 40, 130},
                                           {64, 17, 3}, {49, 33, 140}, {98, 16, 67}};
        uint32_t seed = (uint32_t)i + 1;
        int dots = 0;
        for (uint32_t trial = 0; trial < COUNT_OF(fixed) + 3; trial++) {
            int64_t random[3] = {next(&seed) % 70, 1 + next(&seed) % 50, 1 + next(&seed) % 200};
            dots += code_run(&c, trial < COUNT_OF(fixed) ? fixed[trial] : random, trial);
        }
        cr_expect(dots, "%d x %d: no tiles", shape[i].rows, shape[i].cols);
    }
    session_drop(s);
}

/* Sizes as a model has them: tuned, so the tile is what the problem asks for. */
Test(amx, sizes_known_when_compiled)
{
    static const int size[][4] = {/* rows, columns, depth, are there tiles? */
                                  {49, 96, 192, 1}, {196, 40, 96, 1}, {100, 70, 76, 1}, {7, 16, 100, 1},
                                  {33, 48, 68, 1},  {64, 32, 67, 1},  {17, 16, 300, 1}, {28, 20, 129, 1},
                                  {32, 64, 60, 0},  {3, 64, 128, 0},  {56, 80, 40, 0}};
    if (!host_has("avx512vnni")) cr_skip("needs AVX-512 VNNI");
    Session *s = session_new();
    for (size_t i = 0; i < COUNT_OF(size); i++) {
        const char *text = arena_printf(
            &s->mem,
            "kernel gemm() { in A: u8[%d, %d] const W: i8[%d, %d] layout(0/16, 1/4, 0%%16, 1%%4) in B[%d] out Y: "
            "u8[%d, %d]"
            " Y[m, n] = sum(k: %d) i32(A[m, k]) * i32(W[n, k]) then sat_u8(rint(f32(it) * 0.002 + B[n]) + 12) }",
            size[i][0], size[i][2], size[i][1], size[i][2], size[i][1], size[i][0], size[i][1], size[i][2]);
        Code c = code_new(s, text);
        for (uint32_t trial = 0; trial < 3; trial++) {
            int dots = code_run(&c, (int64_t[3]){0}, trial);
            cr_expect_eq(dots > 0, size[i][3], "%s: %d", text, dots);
            cr_expect_leq(unit.configured, 2, "once a call of the kernel");
        }
    }
    session_drop(s);
}

Test(amx, convolutions)
{
    static const int size[][7] = {/* width, channels, kernel, stride, dilation, filters, lines that come out */
                                  {30, 64, 3, 1, 1, 32, 2}, {18, 16, 3, 1, 1, 20, 2}, {29, 24, 3, 2, 1, 48, 2},
                                  {21, 72, 3, 1, 2, 16, 2}, {9, 20, 5, 1, 1, 40, 2},  {16, 66, 1, 1, 1, 64, 2},
                                  {33, 96, 1, 2, 1, 16, 2}, {9, 64, 3, 1, 1, 32, 7},  {15, 64, 3, 2, 1, 48, 7},
                                  {12, 64, 3, 1, 1, 16, 9}, {16, 64, 3, 1, 1, 96, 5}, {6, 68, 2, 1, 1, 20, 11},
                                  {8, 64, 5, 1, 1, 16, 13}, {130, 64, 3, 1, 1, 16, 3}};
    if (!host_has("avx512vnni")) cr_skip("needs AVX-512 VNNI");
    Session *s = session_new();
    for (size_t i = 0; i < COUNT_OF(size); i++) {
        int w = size[i][0], ch = size[i][1], f = size[i][2], st = size[i][3], di = size[i][4], n = size[i][5],
            lines = size[i][6];
        int window = (f - 1) * di + 1, out = (w - window) / st + 1;
        const char *text =
            arena_printf(&s->mem,
                         "kernel conv() { in X: u8[2, %d, %d, %d] const F: i8[%d, %d, %d, %d] "
                         "layout(0/16, 1, 2, 3/4, 0%%16, 3%%4) in B: i32[%d] out Y: i32[2, %d, %d, %d]"
                         " Y[b, h, w, o] = sum(i: %d, j: %d, c: %d) i32(X[b, h * %d + i * %d, w * %d + "
                         "j * %d, c]) * i32(F[o, i, j, c]) then it + B[o] }",
                         window + st * (lines - 1), w, ch, n, f, f, ch, n, lines, out, n, f, f, ch, st, di, st, di);
        Code c = code_new(s, text);
        cr_expect(code_run(&c, (int64_t[3]){0}, (uint32_t)i), "%s: no tiles", text);
        text = arena_printf(&s->mem,
                            "kernel conv16() { in X: bf16[2, %d, %d, %d] const F: bf16[%d, %d, %d, %d] "
                            "layout(0/16, 1, 2, 3/2, 0%%16, 3%%2) in B[%d] out Y: bf16[2, %d, %d, %d]"
                            " Y[b, h, w, o] = sum(i: %d, j: %d, c: %d) f32(X[b, h * %d + i * %d, w * %d + "
                            "j * %d, c]) * f32(F[o, i, j, c]) then bf16(it + B[o]) }",
                            window + st * (lines - 1), w, ch, n, f, f, ch, n, lines, out, n, f, f, ch, st, di, st, di);
        c = code_new(s, text);
        cr_expect(code_run(&c, (int64_t[3]){0}, (uint32_t)i), "%s: no tiles", text);
    }
    session_drop(s);
}

/* Products of planes (codegen/split.c): the planes are chosen by an outer loop of the sum. */
Test(amx, planes)
{
    if (!host_has("avx512vnni")) cr_skip("needs AVX-512 VNNI");
    Session *s = session_new();
    Code c = code_new(s, "kernel planes() { in A: bf16[2, 40, 130] const W: bf16[2, 32, 130] layout(1/16, 0, 2/2, 1%16, 2%2) in B[32] out Y[40, 32]"
                         " Y[m, n] = sum(t: 3, k: 130) f32(A[select(t < 1, 1, 0), m, k]) * f32(W[select(t < 1, 0, select(t < 2, 1, 0)), n, k])"
                         " then it + B[n] }");
    cr_expect(code_run(&c, (int64_t[3]){0}, 1), "no tiles");
    session_drop(s);
}

/* Codes in blocks: zero points that all have or that columns have, in steps; codes of every width, with and without signs; more blocks than are unpacked at
 * a time, and such that a tile takes several steps for. Scales and sums are such that f32 holds them. */
Test(amx, codes_in_blocks)
{
#define ROWS_OF                                                                                                        \
    "in X: i8[%s, %d, %d], T: u8[%s, %d], R[%s, %d] const Z: u8[%d, %d] layout(1/16, 0, 1%%16), S: u8[%d, %d] "        \
    "layout(1/16, 0, 1%%16), Q: "
    static const char *const scale[] = {"f32(and(i32(T[m, b]), 1) + 1) * f32(and(i32(S[b, n]), 1) + 1)",
                                        "f32(and(i32(T[m, b]), 1) + and(i32(S[b, n]), 1) + 1)"};
    static const struct {
        int blocks, size, most; /* a byte holds codes up to `most` */
        const char *code, *zero;
    } form[] = {{3, 32, 15, "and(shr(i32(Q[b, w, j, n]), i32(i * 4)), 15)", "f32(and(i32(Z[b, n]), 15))"},
                {18, 32, 15, "and(shr(i32(Q[b, w, j, n]), i32(i * 4)), 15)", "8"},
                {17, 16, 15, "and(shr(i32(Q[b, w, j, n]), i32(i * 4)), 15)", "f32(and(i32(Z[b, n]), 15))"},
                {2, 48, 15, "(and(shr(i32(Q[b, w, j, n]), i32(i * 4)), 15) * 16)", "f32(Z[b, n])"},
                {3, 128, 3, "and(shr(i32(Q[b, w, j, n]), i32(i * 2)), 3)", "f32(and(i32(Z[b, n]), 3))"},
                {3, 64, 255, "(i32(Q[b, w, j, n]) + 128)", "128"},
                {2, 32, 255, "i32(Q[b, w, j, n])", "f32(Z[b, n])"}};
    static const int columns[] = {64, 40};
    static const int64_t rows[] = {0, 1, 5, 15, 16, 17, 40, 127, 129, 150};
    static const char *const fixed[] = {"16", "40", "100", "129"};
    if (!host_has("avx512vnni")) cr_skip("needs AVX-512 VNNI");
    Session *s = session_new();
    for (size_t i = 0; i < COUNT_OF(form) * COUNT_OF(columns); i++) {
        int b = form[i / 2].blocks, size = form[i / 2].size, n = columns[i % 2],
            bits = form[i / 2].most == 15  ? 4
                   : form[i / 2].most == 3 ? 2
                                           : 8;
        int codes = 8 / bits, words = size / 4 / codes;
        for (size_t f = 0; f <= COUNT_OF(fixed); f++) {
            const char *m = f < COUNT_OF(fixed) ? fixed[f] : "M";
            const char *text = arena_printf(
                &s->mem,
                "kernel blocks(M) { " ROWS_OF "%s[%d, %d, 4, %d] layout(3/16, 0, 1, 2/4, 3%%16, 2%%4) out Y[%s, %d]"
                " Y[m, n] = sum(b: %d, w: %d, i: %d, j: 4) (f32(i32(X[m, b, w * %d + i * 4 + j]) * %s)"
                " - select(w * %d + i * 4 + j == 0, R[m, b] * %s, 0)) * (%s) then it * 0.5 }",
                m, b, size, m, b, m, b, b, n, b, n, strchr(form[i / 2].code, '+') ? "i8" : "u8", b, words, n, m, n, b,
                words, codes, 4 * codes, form[i / 2].code, 4 * codes, form[i / 2].zero, scale[i % 2]);
            Code c = code_new(s, text);
            for (size_t r = 0; r < (f < COUNT_OF(fixed) ? 1 : COUNT_OF(rows)); r++) {
                int dots = code_run(&c, (int64_t[3]){rows[r]}, (uint32_t)(i + r));
                cr_expect_eq(dots > 0, f < COUNT_OF(fixed) || rows[r] >= 16, "%s: %ld rows", text, (long)rows[r]);
            }
        }
    }
    session_drop(s);
}

/* Whatever tiles cannot load is done with vectors: the call means the same. */
Test(amx, falls_back)
{
    static const char *const text[] = {
        "kernel signed() { in A: i8[40, 128] const W: i8[32, 128] layout(0/16, 1/4, 0%16, 1%4) out Y: i32[40, 32] Y[m, "
        "n] = sum(k: 128) i32(A[m, k]) * i32(W[n, k])"
        " schedule: split m 32; split n 2 16; split k 4; order n.0 m.0 k.0 m.1 n.1 n.2 k.1; vectorize n.2; call tiles "
        "k.0 }",
        "kernel columns() { in A: u8[128, 40] const W: i8[32, 128] layout(0/16, 1/4, 0%16, 1%4) out Y: i32[40, 32] "
        "Y[m, n] = sum(k: 128) i32(A[k, m]) * i32(W[n, k])"
        " schedule: split m 32; split n 2 16; split k 4; order n.0 m.0 k.0 m.1 n.1 n.2 k.1; vectorize n.2; call tiles "
        "k.0 }",
        "kernel uneven() { in A: u8[8, 7, 128] const W: i8[32, 128] layout(0/16, 1/4, 0%16, 1%4) out Y: i32[40, 32] "
        "Y[m, n] = sum(k: 128) i32(A[m / 5, m % 5, k]) * i32(W[n, k])"
        " schedule: split m 32; split n 2 16; split k 4; order n.0 m.0 k.0 m.1 n.1 n.2 k.1; vectorize n.2; call tiles "
        "k.0 }",
        "kernel no_words() { in A: u8[40, 3] const W: i8[32, 3] layout(0/16, 1/4, 0%16, 1%4) out Y: i32[40, 32] Y[m, "
        "n] = sum(k: 3) i32(A[m, k]) * i32(W[n, k])"
        " schedule: split m 32; split n 2 16; split k 4; order n.0 m.0 k.0 m.1 n.1 n.2 k.1; vectorize n.2; call tiles "
        "k.0 }"};
    if (!host_has("avx512vnni")) cr_skip("needs AVX-512 VNNI");
    Session *s = session_new();
    for (size_t i = 0; i < COUNT_OF(text); i++) {
        Code c = code_new(s, text[i]);
        cr_expect_eq(code_run(&c, (int64_t[3]){0}, (uint32_t)i), 0, "%s", text[i]);
        cr_expect_eq(unit.configured, 0, "%s: a configuration without need", text[i]);
    }
    session_drop(s);
}

static const char *assembly_of(Arena *mem, const char *source)
{
    Diag diag = {.mem = mem, .subject = ""};
    const char *error = "", *text = NULL;
    Kernel *k = kernel_parse(mem, dims_new(mem), source, &diag);
    cr_assert(k);
    tune(k, target_find("amx"), false);
    k = schedule_apply(k, &error);
    cr_assert(k && llvm_text(mem, &diag, &(LlvmJob){k, target_find("amx"), "k", false}, true, &text));
    return text;
}

/* The instructions themselves: the configuration outside all loops; in the innermost one four products share four loads with nothing between them, and
 * no sum leaves the tiles. */
static void expect_instructions(const char *source, const char *product)
{
    Arena mem = {0};
    const char *text = assembly_of(&mem, source);
    const char *config = strstr(text, "ldtilecfg"), *first = strstr(text, "\n.LBB");
    cr_assert(config && first && config < first && !strstr(config + 1, "ldtilecfg"), "once, before any loop");
    int loops = 0;
    for (const char *at = first, *end; at; at = end) {
        end = strstr(at + 1, "\n.LBB");
        char *block = arena_text(&mem, at + 1, end ? (size_t)(end - at - 1) : strlen(at + 1)),
             *body = strchr(block, ':');
        *body++ = 0;
        const char *last = NULL, *jump = arena_printf(&mem, "\t%s\n", block);
        for (const char *p = body; (p = strstr(p, product)); p++) last = p;
        if (!last || !strstr(at + 1, jump)) continue; /* no loop: nothing behind it jumps to its start */
        int count[3] = {0};
        bool vectors = memmem(body, (size_t)(last - body), "zmm", 3) != NULL;
        const char *const name[3] = {product, "tileloadd", "tilestored"};
        for (int i = 0; i < 3; i++)
            for (const char *p = body; (p = strstr(p, name[i])); p++) count[i]++;
        loops += count[0] == 4 && count[1] == 4 && !count[2] && !vectors;
    }
    cr_expect(loops, "four products from four loads: %s", text);
    cr_expect(strstr(text, "tilestored"));
    arena_drop(&mem);
}

Test(amx, instructions)
{
    expect_instructions(
        "kernel gemm() { in A: u8[128, 512] const W: i8[64, 512] layout(0/16, 1/4, 0%16, 1%4) in B[64] out Y: u8[128, "
        "64]"
        " Y[m, n] = sum(k: 512) i32(A[m, k]) * i32(W[n, k]) then sat_u8(rint(f32(it) * 0.002 + B[n]) + 12) }",
        "tdpbusd");
    expect_instructions("kernel gemm16() { in A: bf16[128, 512] const W: bf16[64, 512] layout(0/16, 1/2, 0%16, 1%2) in "
                        "B[64] out Y: bf16[128, 64]"
                        " Y[m, n] = sum(k: 512) f32(A[m, k]) * f32(W[n, k]) then bf16(it + B[n]) }",
                        "tdpbf16ps");
}

/* Where several tiles pass over the same panels, they ask for the next ones, if these come from far away. */
Test(amx, far_panels_are_asked_for)
{
#define PRODUCT(rows, K)                                                                                               \
    "kernel gemm() { in A: u8[" rows ", " K "] const W: i8[256, " K "] layout(0/16, 1/4, 0%16, 1%4) out Y[" rows ", 256] " \
    "Y[m, n] = sum(k: " K ") i32(A[m, k]) * i32(W[n, k]) then f32(it) }"
    static const struct {
        const char *source;
        bool asks;
    } product[] = {{PRODUCT("128", "2048"), true}, {PRODUCT("128", "256"), false}, {PRODUCT("16", "2048"), false}};
    for (size_t i = 0; i < COUNT_OF(product); i++) {
        Arena mem = {0};
        const char *text = assembly_of(&mem, product[i].source);
        cr_expect(strstr(text, "tdpbusd"));
        cr_expect_eq(strstr(text, "prefetcht1") != NULL, product[i].asks, "%s: %s", product[i].source, text);
        arena_drop(&mem);
    }
#undef PRODUCT
}
