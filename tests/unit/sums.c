/* The largest sums of codes: every product at an end of its range, as many of them as 32 bits are known to hold, zero points at both ends;
 * on every instruction-set level that this machine has. Some multiply bytes in pairs that saturate at 16 bits, some sum four products at a
 * time: what they give must be the exact sum. Codes of 16 bits, whose sums are of halves, must be the float nearest to it or the next. */
#include "codegen/artefact.h"
#include "frontend/interpret.h"
#include "passes/passes.h"
#include "passes/quantize.h"
#include "tests/unit/worlds.h"
#include <stdlib.h>
#include <unistd.h>

/* How elements of a tensor are: all the least, all the greatest, the two in turns along what is summed. */
typedef enum Fill { LEAST, MOST, TURNS, FILLS } Fill;
enum { ROWS = 3, COLUMNS = 17, MAX_IN = 64, MAX_OUT = 128 };

static World w;
static Graph *g;
static const Tensor *in[MAX_IN], *want[MAX_OUT];
static const char *what[MAX_OUT];
static double room_of[MAX_OUT]; /* 0: the exact sum, or as a float the one beside it */
static char path[64];

static void setup(void)
{
    world_open(&w), g = graph_new(&w.module, &w.mem, "sums");
    snprintf(path, sizeof path, "/tmp/octet-sums-%d.so", (int)getpid());
}
static void teardown(void)
{
    unlink(path), memcpy(strrchr(path, '.'), ".h", 3), unlink(path);
    world_close(&w);
}
TestSuite(sums, .init = setup, .fini = teardown);

static Tensor *filled(DType t, Fill f, int rank, const int64_t *dim, int64_t inner)
{
    Tensor *x = tensor_new(&w.mem, t, rank, dim);
    for (int64_t i = 0; i < tensor_count(x); i++)
        dtype_store_int(t, (void *)(uintptr_t)x->data, i, f == LEAST || (f == TURNS && i / inner % 2) ? dtype_min(t) : dtype_max(t));
    return x;
}

static Val input(const Tensor *t)
{
    cr_assert(g->input.n < MAX_IN);
    in[g->input.n] = t;
    return graph_input(g, arena_printf(&w.mem, "x%u", g->input.n), type_of_tensor(&w.module, t));
}

static Val constant(const Tensor *t) { return graph_const(g, t, NULL); }
static Val number(DType t, double v) { return constant(tensor_scalar(&w.mem, t, v)); }
static int64_t element(const Tensor *t, int64_t i) { return dtype_load_int(t->type, t->data, i); }

static void output(Val y, const Tensor *expected, const char *name)
{
    cr_assert(g->output.n < MAX_OUT && !w.diag.errors, "%s: %s", name, w.diag.line.n ? w.diag.line.at[0] : "too many");
    want[g->output.n] = expected, what[g->output.n] = name;
    graph_output(g, y, arena_printf(&w.mem, "y%u", g->output.n));
}

static void check_outputs(const Tensor *const *got, const char *level)
{
    for (uint32_t o = 0; o < g->output.n; o++) {
        DType t = want[o]->type;
        cr_assert(tensor_count(got[o]) == tensor_count(want[o]), "%s", what[o]);
        for (int64_t i = 0; i < tensor_count(want[o]); i++) {
            double a = dtype_load(t, got[o]->data, i), b = dtype_load(t, want[o]->data, i);
            double room = dtype_is_float(t) ? (double)(nextafterf(fabsf((float)b), INFINITY) - fabsf((float)b)) : 0;
            cr_assert(fabs(a - b) <= fmax(room, room_of[o]), "%s, %s: element %ld is %.17g, the sum is %.17g", what[o], level, (long)i, a, b);
        }
    }
}

static void run_levels(void)
{
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch, .halves = true};
    CodegenOptions c = {.target = "portable", .out = path, .kind = ARTEFACT_SO, .jobs = 1, .quiet = true};
    Loaded l = {0};
    Session *s = NULL;
    const Graph *flat = passes_run(g, &ctx, NULL, NULL, &(PassRun){.verify = true});
    bool ok = codegen_graph(flat, &c, &w.diag) && artefact_load(path, &l, &w.diag) && (s = session_new(&l, 2, &w.diag));
    cr_assert(ok, "%s", w.diag.line.n ? w.diag.line.at[0] : "");
    for (int i = 0; l.api->levels[i]; i++) {
        const Target *t = target_find(l.api->levels[i]);
        const Tensor *got[MAX_OUT];
        if (!t || (t->needs & ~target_host_features())) continue;
        session_level(s, i), artefact_rest(&l); /* what left memory comes back as it was */
        cr_assert(session_run(s, &w.mem, in, got, &w.diag), "%s: %s", t->name, w.diag.line.n ? w.diag.line.at[0] : "");
        check_outputs(got, t->name);
    }
    session_drop(s), artefact_unload(&l);
}

/* ---- matrix products ---- */
/* Sums of (x - zx) times (w - zw), as T; a zero point is at the end that makes most of them. */
static Tensor *products(DType t, const Tensor *x, int64_t zx, const Tensor *wt, int64_t zw)
{
    int64_t dim[] = {x->dim[0], wt->dim[1]}, depth = x->dim[1];
    Tensor *y = tensor_new(&w.mem, t, 2, dim);
    for (int64_t i = 0; i < dim[0] * dim[1]; i++) {
        int64_t sum = 0;
        for (int64_t k = 0; k < depth; k++)
            sum += (element(x, i / dim[1] * depth + k) - zx) * (element(wt, k * dim[1] + i % dim[1]) - zw);
        if (dtype_is_float(t)) dtype_store(t, (void *)(uintptr_t)y->data, i, (double)sum);
        else dtype_store_int(t, (void *)(uintptr_t)y->data, i, sum);
    }
    return y;
}

static void add_product(DType tx, DType tw, Fill fx, Fill fw, int64_t depth, bool zero, bool free_weights)
{
    const Tensor *x = filled(tx, fx, 2, (int64_t[]){ROWS, depth}, 1), *wt = filled(tw, fw, 2, (int64_t[]){depth, COLUMNS}, COLUMNS);
    int64_t zx = fx == LEAST ? dtype_max(tx) : dtype_min(tx), zw = !zero ? 0 : fw == LEAST ? dtype_max(tw) : dtype_min(tw);
    Val y = emit(g, "MatMulInteger", NULL, 4, input(x), free_weights ? input(wt) : constant(wt), number(tx, (double)zx), number(tw, (double)zw));
    output(y, products(DT_i32, x, zx, wt, zw), arena_printf(&w.mem, "MatMulInteger %s[%d] %s[%d] zero %d free %d", dtypes[tx].name, fx, dtypes[tw].name, fw, zero, free_weights));
}

/* Depths that no register tile, no word of four bytes and no block divides. SYMMETRIC: 255 * 128 * it just fits; ANY: 255 * 256 * it. */
enum { SYMMETRIC = 65793, ANY = 32895, HALVES = 65535 };

Test(sums, products_of_bytes)
{
    static const DType types[] = {DT_u8, DT_i8};
    for (int i = 0; i < 2; i++)
        for (Fill fx = 0; fx < FILLS; fx++)
            for (Fill fw = 0; fw < FILLS; fw++) add_product(types[i], DT_i8, fx, fw, SYMMETRIC, false, false);
    run_levels();
}

Test(sums, products_with_zero_points_of_weights)
{
    static const DType types[] = {DT_u8, DT_i8};
    for (int i = 0; i < 4; i++)
        for (int f = 0; f < 4; f++) add_product(types[i / 2], types[i % 2], f / 2 ? MOST : LEAST, f % 2 ? MOST : LEAST, ANY, true, false);
    run_levels();
}

Test(sums, products_of_two_computed_operands)
{
    static const DType types[] = {DT_u8, DT_i8};
    for (int i = 0; i < 4; i++)
        for (int f = 0; f < 4; f++) add_product(types[i / 2], types[i % 2], f / 2 ? MOST : LEAST, f % 2 ? MOST : LEAST, ANY, types[i % 2] == DT_u8, true);
    run_levels();
}

/* What the zero point of x takes from every sum is known while compiling: a number for each column, and no copy of the weights. */
Test(sums, weights_are_added_up_where_they_are)
{
    enum { DEPTH = 1000, WIDTH = 1200, LITTLE = 1 << 18 };
    const Tensor *x = tensor_random(&w.mem, DT_u8, 2, (int64_t[]){ROWS, DEPTH}, 1), *wt = tensor_random(&w.mem, DT_i8, 2, (int64_t[]){DEPTH, WIDTH}, 2);
    Val y = emit(g, "MatMulInteger", NULL, 3, input(x), constant(wt), number(DT_u8, 7));
    output(y, products(DT_i32, x, 7, wt, 0), "MatMulInteger of many weights");
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch};
    size_t before = w.mem.used;
    passes_run(g, &ctx, NULL, NULL, &(PassRun){.verify = true});
    cr_expect(w.mem.used - before < LITTLE, "%zu bytes for %zu of weights", w.mem.used - before, tensor_bytes(wt));
    run_levels();
}

static void check_sums(const Tensor *t, unsigned axes, bool keep, int rank, const int64_t *dim, const int32_t *sum)
{
    const Tensor *s = tensor_sums(&w.mem, t, axes, keep);
    cr_assert(s->type == DT_i32 && s->rank == rank);
    for (int d = 0; d < rank; d++) cr_expect(s->dim[d] == dim[d]);
    for (int64_t i = 0; i < tensor_count(s); i++) cr_expect(((const int32_t *)s->data)[i] == sum[i], "axes %x, sum %d", axes, (int)i);
}

Test(sums, of_any_axes)
{
    Tensor *t = tensor_new(&w.mem, DT_i8, 3, (int64_t[]){2, 3, 2}), *one = tensor_new(&w.mem, DT_u8, 0, NULL);
    for (int64_t i = 0; i < 12; i++) dtype_store_int(DT_i8, (void *)(uintptr_t)t->data, i, i - 3);
    dtype_store_int(DT_u8, (void *)(uintptr_t)one->data, 0, 200);
    check_sums(t, 1, false, 2, (int64_t[]){3, 2}, (int32_t[]){0, 2, 4, 6, 8, 10});
    check_sums(t, 2, false, 2, (int64_t[]){2, 2}, (int32_t[]){-3, 0, 15, 18});
    check_sums(t, 4, true, 3, (int64_t[]){2, 3, 1}, (int32_t[]){-5, -1, 3, 7, 11, 15});
    check_sums(t, 5, true, 3, (int64_t[]){1, 3, 1}, (int32_t[]){2, 10, 18});
    check_sums(t, 7, false, 0, NULL, (int32_t[]){30});
    check_sums(one, 0, false, 0, NULL, (int32_t[]){200});
    check_sums(tensor_new(&w.mem, DT_i8, 2, (int64_t[]){0, 2}), 1, false, 1, (int64_t[]){2}, (int32_t[]){0, 0});
}

/* ---- what is made of the sums ---- */
static Tensor *requantized(const Tensor *sum, float scale, DType t, int zero)
{
    Tensor *y = tensor_new(&w.mem, t, sum->rank, sum->dim);
    for (int64_t i = 0; i < tensor_count(sum); i++) {
        double v = rint((double)((float)element(sum, i) * scale)) + zero;
        dtype_store_int(t, (void *)(uintptr_t)y->data, i, (int64_t)fmax((double)dtype_min(t), fmin((double)dtype_max(t), v)));
    }
    return y;
}

Test(sums, quantized_products)
{
    static const DType types[] = {DT_u8, DT_i8};
    for (int i = 0; i < 8; i++) {
        DType t = types[i / 4];
        Fill fx = i & 1 ? MOST : LEAST, fw = i & 2 ? MOST : LEAST;
        const Tensor *x = filled(t, fx, 2, (int64_t[]){ROWS, SYMMETRIC}, 1), *wt = filled(DT_i8, fw, 2, (int64_t[]){SYMMETRIC, COLUMNS}, COLUMNS);
        int64_t zx = fx == LEAST ? dtype_max(t) : dtype_min(t);
        Val y = emit(g, "QLinearMatMul", NULL, 8, input(x), number(DT_f32, 0x1p-12), number(t, (double)zx), constant(wt), number(DT_f32, 0x1p-12),
                     number(DT_i8, 0), number(DT_f32, 1), number(t, 3));
        output(y, requantized(products(DT_i32, x, zx, wt, 0), 0x1p-24f, t, 3), "QLinearMatMul");
    }
    run_levels();
}

/* ---- convolutions ---- */
enum { CHANNELS = 7309, SIDE = 3 };

/* Windows of 3 x 3 with padding, where x is its zero point. */
static Tensor *windows(const Tensor *x, int64_t zx, const Tensor *wt)
{
    int64_t channels = wt->dim[1], dim[] = {1, wt->dim[0], SIDE, SIDE};
    Tensor *y = tensor_new(&w.mem, DT_i32, 4, dim);
    for (int64_t i = 0; i < tensor_count(y); i++) {
        int64_t sum = 0, o = i / (SIDE * SIDE), groups = x->dim[1] / channels, first = o / (dim[1] / groups) * channels;
        for (int64_t t = 0; t < SIDE * SIDE; t++) {
            int64_t row = i / SIDE % SIDE + t / SIDE - 1, column = i % SIDE + t % SIDE - 1;
            if (row < 0 || row >= SIDE || column < 0 || column >= SIDE) continue;
            for (int64_t c = 0; c < channels; c++)
                sum += (element(x, ((first + c) * SIDE + row) * SIDE + column) - zx) * element(wt, (o * channels + c) * SIDE * SIDE + t);
        }
        dtype_store_int(DT_i32, (void *)(uintptr_t)y->data, i, sum);
    }
    return y;
}

static void add_conv(DType tx, Fill fx, Fill fw, int64_t channels, int64_t group, bool quantized)
{
    static const int64_t pads[] = {1, 1, 1, 1};
    int64_t out = group > 1 ? channels : 5;
    const Tensor *x = filled(tx, fx, 4, (int64_t[]){1, channels, SIDE, SIDE}, 1), *wt = filled(DT_i8, fw, 4, (int64_t[]){out, channels / group, SIDE, SIDE}, 1);
    int64_t zx = fx == LEAST ? dtype_max(tx) : dtype_min(tx);
    const OpDef *op = op_find("", quantized ? "QLinearConv" : "ConvInteger");
    Attr *attr = op_attr_defaults(&w.mem, op);
    attr_set_ints(op, attr, "pads", pads, 4), attr_set_int(op, attr, "group", group);
    Val one = number(DT_f32, 0x1p-12), zero = number(tx, (double)zx), q[] = {input(x), one, zero, constant(wt), one, number(DT_i8, 0), number(DT_f32, 1), number(tx, 1)};
    Val y = graph_emit(g, op, attr, quantized ? q : (Val[]){q[0], q[3], zero, q[5]}, quantized ? 8 : 4, 1, NULL, NULL);
    Tensor *sum = windows(x, zx, wt);
    output(y, quantized ? requantized(sum, 0x1p-24f, tx, 1) : sum, arena_printf(&w.mem, "%s %s[%d] i8[%d] of %ld channels", op->name, dtypes[tx].name, fx, fw, (long)(channels / group)));
}

Test(sums, convolutions)
{
    for (int f = 0; f < 8; f++) {
        DType t = f & 4 ? DT_u8 : DT_i8;
        add_conv(t, f & 1 ? MOST : LEAST, f & 2 ? MOST : LEAST, CHANNELS, 1, f % 3 == 0);
        add_conv(t, f & 1 ? MOST : LEAST, f & 2 ? MOST : LEAST, 35, 35, f % 3 == 0);
        add_conv(t, f & 1 ? MOST : LEAST, f & 2 ? TURNS : LEAST, 40, 5, f % 3 == 0);
    }
    run_levels();
}

/* ---- codes of 16 bits ---- */
static Val dequantized(Val codes, double scale, Val zero) { return emit(g, "DequantizeLinear", NULL, 3, codes, number(DT_f32, scale), zero); }

Test(sums, products_of_words)
{
    static const DType types[] = {DT_u16, DT_i16};
    for (int i = 0; i < 2; i++)
        for (Fill fx = 0; fx < FILLS; fx++)
            for (Fill fw = 0; fw < FILLS; fw++) {
                const Tensor *x = filled(types[i], fx, 2, (int64_t[]){ROWS, HALVES}, 1), *wt = filled(DT_i8, fw, 2, (int64_t[]){HALVES, COLUMNS}, COLUMNS);
                int64_t zx = fx == LEAST ? dtype_max(types[i]) : dtype_min(types[i]);
                Val y = emit(g, "MatMul", NULL, 2, dequantized(input(x), 1, number(types[i], (double)zx)), dequantized(constant(wt), 1, number(DT_i8, 0)));
                output(y, products(DT_f32, x, zx, wt, 0), arena_printf(&w.mem, "%s[%d] i8[%d]", dtypes[types[i]].name, fx, fw));
            }
    run_levels();
}

/* Any codes, and zero points in the middle: small sums of large halves do not cancel. */
Test(sums, words_are_as_exact_as_one_rounding)
{
    enum { DEPTH = 771 };
    static const int zeros[] = {0, 1, 255, 256, 32768, 65535};
    uint32_t seed = 5;
    for (size_t i = 0; i < COUNT_OF(zeros); i++)
        for (int spread = 1; spread <= 65536; spread *= 256) {
            Tensor *x = tensor_new(&w.mem, DT_u16, 2, (int64_t[]){ROWS, DEPTH}), *wt = tensor_random(&w.mem, DT_i8, 2, (int64_t[]){DEPTH, COLUMNS}, 3);
            for (int64_t e = 0; e < ROWS * DEPTH; e++) {
                int64_t v = zeros[i] + (int64_t)(random_step(&seed) % (uint32_t)(2 * spread + 1)) - spread;
                dtype_store_int(DT_u16, (void *)(uintptr_t)x->data, e, v < 0 ? 0 : v > 65535 ? 65535 : v);
            }
            Val y = emit(g, "MatMul", NULL, 2, dequantized(input(x), 1, number(DT_u16, zeros[i])), dequantized(constant(wt), 1, number(DT_i8, 0)));
            output(y, products(DT_f32, x, zeros[i], wt, 0), arena_printf(&w.mem, "u16 around %d by %d", zeros[i], spread));
        }
    run_levels();
}

/* ---- weights of 4 bits: sums of floats, exact as long as these hold them ---- */
Test(sums, weights_of_four_bits)
{
    enum { DEPTH = 4096, GROUP = 32 };
    static const DType types[] = {DT_u4, DT_i4};
    const OpDef *op = op_find("", "DequantizeLinear");
    for (int i = 0; i < 2 * FILLS; i++) {
        DType t = types[i % 2];
        Fill f = (Fill)(i / 2);
        Tensor *x = tensor_new(&w.mem, DT_f32, 2, (int64_t[]){ROWS, DEPTH}), *scale = tensor_new(&w.mem, DT_f32, 2, (int64_t[]){DEPTH / GROUP, COLUMNS});
        for (int64_t e = 0; e < tensor_count(x); e++) ((float *)(uintptr_t)x->data)[e] = 255;
        for (int64_t e = 0; e < tensor_count(scale); e++) ((float *)(uintptr_t)scale->data)[e] = 1;
        const Tensor *wt = filled(t, f, 2, (int64_t[]){DEPTH, COLUMNS}, COLUMNS), *zero = filled(t, f == LEAST ? MOST : LEAST, 2, scale->dim, 1);
        Attr *attr = op_attr_defaults(&w.mem, op);
        attr_set_int(op, attr, "axis", 0), attr_set_int(op, attr, "block_size", GROUP);
        Val codes = graph_emit(g, op, attr, (Val[]){constant(wt), constant(scale), constant(zero)}, 3, 1, NULL, NULL);
        Tensor *bytes = tensor_new(&w.mem, DT_u8, 2, x->dim);
        memset((void *)(uintptr_t)bytes->data, 255, tensor_bytes(bytes));
        output(emit(g, "MatMul", NULL, 2, input(x), codes), products(DT_f32, bytes, 0, wt, element(zero, 0)), arena_printf(&w.mem, "%s[%d]", dtypes[t].name, f));
    }
    run_levels();
}

/* Values whose codes are all 127, or it and -127 in turns, times codes and zero points at the ends: each sum of a block is as large as it can be. Zero
 * points are codes, or floats in so many steps of one. */
static void add_blocks(int bits, int64_t block, Fill f, bool turns, int steps)
{
    enum { CODE = 127 };
    int64_t most = (1 << bits) - 1, blocks = 2, depth = blocks * block, row = blocks * block * bits / 8,
            packed = (blocks * bits + 7) / 8;
    const OpDef *op = op_find("com.microsoft", "MatMulNBits");
    Tensor *x = tensor_new(&w.mem, DT_f32, 2, (int64_t[]){ROWS, depth}),
           *codes = tensor_new(&w.mem, DT_u8, 3, (int64_t[]){COLUMNS, blocks, row / blocks});
    Tensor *scale = tensor_new(&w.mem, DT_f32, 2, (int64_t[]){COLUMNS, blocks}),
           *zero = tensor_new(&w.mem, steps > 1 ? DT_f32 : DT_u8, 2, (int64_t[]){COLUMNS, steps > 1 ? blocks : packed});
    Tensor *bytes = tensor_new(&w.mem, DT_i8, 2, x->dim),
           *wt = tensor_new(&w.mem, DT_u8, 2, (int64_t[]){depth, COLUMNS});
    for (int64_t i = 0; i < tensor_count(x); i++) {
        int v = turns && i % 2 ? -CODE : CODE;
        ((float *)(uintptr_t)x->data)[i] = (float)v, ((int8_t *)(uintptr_t)bytes->data)[i] = (int8_t)v;
    }
    for (int64_t i = 0; i < tensor_count(scale); i++) ((float *)(uintptr_t)scale->data)[i] = (float)steps;
    int64_t middle = f != LEAST ? 0 : steps > 1 ? UINT8_MAX : most;
    for (int64_t i = 0; i < tensor_count(zero); i++)
        dtype_store(zero->type, (void *)(uintptr_t)zero->data, i,
                    steps > 1 ? (double)middle / steps
                    : middle  ? UINT8_MAX
                              : 0);
    for (int64_t c = 0; c < COLUMNS; c++)
        for (int64_t k = 0; k < depth; k++) {
            int64_t v = f == LEAST || (f == TURNS && k % 2) ? 0 : most;
            uint8_t *byte = (uint8_t *)(uintptr_t)codes->data + c * row + k * bits / 8;
            *byte = (uint8_t)(*byte | v << k * bits % 8);
            ((uint8_t *)(uintptr_t)wt->data)[k * COLUMNS + c] = (uint8_t)(v * steps);
        }
    Attr *attr = op_attr_defaults(&w.mem, op);
    attr_set_int(op, attr, "K", depth), attr_set_int(op, attr, "N", COLUMNS), attr_set_int(op, attr, "bits", bits);
    attr_set_int(op, attr, "block_size", block), attr_set_int(op, attr, "accuracy_level", 4);
    Val y =
        graph_emit(g, op, attr, (Val[]){input(x), constant(codes), constant(scale), constant(zero)}, 4, 1, NULL, NULL);
    output(y, products(DT_f32, bytes, 0, wt, f == LEAST ? most : 0),
           arena_printf(&w.mem, "%d bits[%d] in blocks of %d, turns %d", bits, f, (int)block, turns));
}

Test(sums, codes_in_blocks)
{
    static const int64_t block[] = {16, 32, 256};
    for (int bits = 2; bits <= 8; bits *= 2)
        for (size_t b = 0; b < COUNT_OF(block); b++)
            for (int f = 0; f < FILLS; f++)
                add_blocks(bits, block[b], (Fill)f, (b + (size_t)f) % 2, bits < 8 && b % 2 ? 16 : 1);
    run_levels();
}

/* Every E2M1, packed two in a byte: sums of halves, which floats hold. */
Test(sums, weights_of_four_bit_floats)
{
    enum { DEPTH = 1024, GROUP = 32 };
    static const float values[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6, 0, -0.5F, -1, -1.5F, -2, -3, -4, -6};
    const OpDef *op = op_find("", "DequantizeLinear");
    Tensor *x = tensor_new(&w.mem, DT_f32, 2, (int64_t[]){ROWS, DEPTH}), *scale = tensor_new(&w.mem, DT_f32, 2, (int64_t[]){DEPTH / GROUP, COLUMNS});
    Tensor *wt = tensor_new(&w.mem, DT_f4e2m1, 2, (int64_t[]){DEPTH, COLUMNS}), *y = tensor_new(&w.mem, DT_f32, 2, (int64_t[]){ROWS, COLUMNS});
    uint32_t seed = 3;
    for (int64_t e = 0; e < tensor_count(x); e++) ((float *)(uintptr_t)x->data)[e] = (float)(random_step(&seed) % 256);
    for (int64_t e = 0; e < tensor_count(scale); e++) ((float *)(uintptr_t)scale->data)[e] = (float)(1 << e % 3);
    for (int64_t k = 0; k < DEPTH; k++)
        for (int64_t c = 0; c < COLUMNS; c++) {
            float v = values[random_step(&seed) % 16];
            dtype_store(DT_f4e2m1, (void *)(uintptr_t)wt->data, k * COLUMNS + c, (double)v);
            for (int64_t r = 0; r < ROWS; r++)
                ((float *)(uintptr_t)y->data)[r * COLUMNS + c] += ((const float *)x->data)[r * DEPTH + k] * v * ((const float *)scale->data)[k / GROUP * COLUMNS + c];
        }
    Attr *attr = op_attr_defaults(&w.mem, op);
    attr_set_int(op, attr, "axis", 0), attr_set_int(op, attr, "block_size", GROUP);
    Val codes = graph_emit(g, op, attr, (Val[]){constant(wt), constant(scale)}, 2, 1, NULL, NULL);
    output(emit(g, "MatMul", NULL, 2, input(x), codes), y, "f4e2m1");
    run_levels();
}

/* ---- between codes, where with such scales many results lie on ties: the roundings in the order of ONNX Runtime's operators, on every level ---- */
enum { EDGE = 32, PLANES = 3, CENTER = 107 };
static const float STEP = 0.0235294122F;

static int64_t code(float steps) { return (int64_t)fmaxf(0, fminf(255, rintf(steps))); }

/* u8 codes as they are, or as s8. */
static const Tensor *typed(DType t, const Tensor *codes)
{
    Tensor *y = tensor_new(&w.mem, t, codes->rank, codes->dim);
    for (int64_t i = 0; i < tensor_count(y); i++) dtype_store_int(t, (void *)(uintptr_t)y->data, i, element(codes, i) + dtype_min(t));
    return y;
}

static Val as_floats(DType t, Val codes, double scale, double zero)
{
    return emit(g, "DequantizeLinear", NULL, 3, codes, number(DT_f32, scale), number(t, zero + (double)dtype_min(t)));
}

static Val as_codes(DType t, Val floats, double zero)
{
    return emit(g, "QuantizeLinear", NULL, 3, floats, number(DT_f32, (double)STEP), number(t, zero + (double)dtype_min(t)));
}

/* Read by the next layer, so that they have a reader. */
static void output_codes(DType t, Val floats, double zero, const Tensor *expected, const char *name)
{
    Tensor *values = tensor_new(&w.mem, DT_f32, expected->rank, expected->dim);
    for (int64_t i = 0; i < tensor_count(values); i++)
        dtype_store(DT_f32, (void *)(uintptr_t)values->data, i, (double)((float)((double)element(expected, i) - zero) * STEP));
    output(as_floats(t, as_codes(t, floats, zero), (double)STEP, zero), values, name);
}

static const Tensor *product_codes(const Tensor *a, const Tensor *b)
{
    Tensor *y = tensor_new(&w.mem, DT_u8, a->rank, a->dim);
    const float ratio = STEP * 0x1p-8F / STEP;
    for (int64_t i = 0; i < tensor_count(a); i++)
        dtype_store_int(DT_u8, (void *)(uintptr_t)y->data, i, code((float)((element(a, i) - CENTER) * element(b, i)) * ratio + CENTER));
    return y;
}

/* Windows of 2 x 2 about a zero point of 0, each value rounded before it is added, row by row. */
static const Tensor *window_codes(const Tensor *x)
{
    enum { HALF = EDGE / 2 };
    Tensor *y = tensor_new(&w.mem, DT_u8, 4, (int64_t[]){1, PLANES, HALF, HALF});
    for (int64_t i = 0; i < tensor_count(y); i++) {
        int64_t c = i / HALF / HALF, row = i / HALF % HALF, column = i % HALF;
        float sum = 0;
        for (int64_t tap = 0; tap < 4; tap++) {
            float value = (float)(element(x, (c * EDGE + row * 2 + tap / 2) * EDGE + column * 2 + tap % 2)) * STEP;
            sum += value;
        }
        dtype_store_int(DT_u8, (void *)(uintptr_t)y->data, i, code(sum / 4 / STEP));
    }
    return y;
}

static const Tensor *mean_codes(const Tensor *x)
{
    Tensor *y = tensor_new(&w.mem, DT_u8, 4, (int64_t[]){1, PLANES, 1, 1});
    for (int64_t c = 0; c < PLANES; c++) {
        int64_t sum = 0;
        for (int64_t i = 0; i < EDGE * EDGE; i++) sum += element(x, c * EDGE * EDGE + i) - CENTER;
        dtype_store_int(DT_u8, (void *)(uintptr_t)y->data, c, code(rintf((float)sum * (STEP / (STEP * (EDGE * EDGE)))) + CENTER));
    }
    return y;
}

Test(sums, codes_on_ties)
{
    const int64_t dim[] = {1, PLANES, EDGE, EDGE};
    Tensor *a = tensor_random(&w.mem, DT_u8, 4, dim, 1), *b = tensor_random(&w.mem, DT_u8, 4, dim, 2);
    for (int64_t i = 0; i < EDGE * EDGE; i++) { /* whose mean lies on a tie, and whose products */
        dtype_store_int(DT_u8, (void *)(uintptr_t)a->data, i, i < EDGE * EDGE / 2 ? CENTER : CENTER + 1);
        dtype_store_int(DT_u8, (void *)(uintptr_t)b->data, i, 128);
    }
    const OpDef *op = op_find("", "AveragePool");
    Attr *attr = op_attr_defaults(&w.mem, op);
    attr_set_ints(op, attr, "kernel_shape", (int64_t[]){2, 2}, 2), attr_set_ints(op, attr, "strides", (int64_t[]){2, 2}, 2);
    Tensor *values = tensor_new(&w.mem, DT_f32, 4, dim);
    for (int64_t i = 0; i < tensor_count(a); i++) dtype_store(DT_f32, (void *)(uintptr_t)values->data, i, (double)((float)element(a, i) * STEP));
    for (int i = 0; i < 2; i++) {
        const DType t = i ? DT_i8 : DT_u8;
        Val left = as_floats(t, input(typed(t, a)), (double)STEP, CENTER), right = as_floats(t, input(typed(t, b)), 0x1p-8, 0);
        Val low = as_floats(t, as_codes(t, input(values), 0), (double)STEP, 0), all = as_floats(t, input(typed(t, a)), (double)STEP, CENTER);
        output_codes(t, emit(g, "Mul", NULL, 2, left, right), CENTER, product_codes(a, b), "Mul");
        output_codes(t, graph_emit(g, op, attr, &low, 1, 1, NULL, NULL), 0, window_codes(a), "AveragePool");
        output_codes(t, emit(g, "GlobalAveragePool", NULL, 1, all), CENTER, mean_codes(a), "GlobalAveragePool");
    }
    run_levels();
}

/* ---- a state that is quantized in every step: each level against the interpreter ---- */
Test(sums, states_of_a_quantized_lstm)
{
    enum { STEPS = 3, BATCH = 2, WIDTH = 24, HIDDEN = 39 };
    const OpDef *op = op_find("com.microsoft", "DynamicQuantizeLSTM");
    Attr *attr = op_attr_defaults(&w.mem, op);
    attr_set_int(op, attr, "hidden_size", HIDDEN);
    const Tensor *x = tensor_random(&w.mem, DT_f32, 3, (int64_t[]){STEPS, BATCH, WIDTH}, 1), *b = tensor_random(&w.mem, DT_f32, 2, (int64_t[]){1, 8 * HIDDEN}, 4);
    const Tensor *wx = tensor_random(&w.mem, DT_i8, 3, (int64_t[]){1, WIDTH, 4 * HIDDEN}, 2), *r = tensor_random(&w.mem, DT_i8, 3, (int64_t[]){1, HIDDEN, 4 * HIDDEN}, 3);
    Tensor *scale = tensor_new(&w.mem, DT_f32, 1, (int64_t[]){1}), *zero = tensor_new(&w.mem, DT_i8, 1, (int64_t[]){1});
    *(float *)(uintptr_t)scale->data = 0.003F;
    Val none = {0}, s = constant(scale), z = constant(zero), y[3];
    graph_emit(g, op, attr, (Val[]){input(x), constant(wx), constant(r), constant(b), none, none, none, none, s, z, s, z}, 12, 3, NULL, y);
    graph_output(g, y[0], "y0");
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch};
    Graph *flat = pass_expand(g, &ctx);
    int *buf_of;
    Kernel *k = lower_graph(flat, &w.mem, &buf_of);
    cr_assert(k && interpret(flat, k, &w.mem, in, want, &w.diag), "%s", w.diag.line.n ? w.diag.line.at[0] : "not lowered");
    what[0] = "DynamicQuantizeLSTM", room_of[0] = 1e-3; /* a code that falls to the other side moves results by less */
    run_levels();
}

/* ---- recurrent weights that became codes: each level against the interpreter, and that against float weights ---- */
enum { STATE_STEPS = 4, STATE_BATCH = 2, STATE_WIDTH = 8, STATE_HIDDEN = 130 };

static Val recurrent(const char *name, int gates, bool before_reset, bool both)
{
    const OpDef *op = op_find("", name);
    Attr *attr = op_attr_defaults(&w.mem, op);
    const int64_t d = both ? 2 : 1, n = gates * STATE_HIDDEN;
    attr_set_int(op, attr, "hidden_size", STATE_HIDDEN);
    if (both) attr_set_str(op, attr, "direction", "bidirectional");
    if (before_reset) attr_set_int(op, attr, "linear_before_reset", 1);
    Val part[4] = {input(tensor_random(&w.mem, DT_f32, 3, (int64_t[]){STATE_STEPS, STATE_BATCH, STATE_WIDTH}, 1))};
    const int64_t dim[4][3] = {{0}, {d, n, STATE_WIDTH}, {d, n, STATE_HIDDEN}, {d, 2 * n}};
    for (int i = 1; i < 4; i++) {
        Tensor *t = tensor_random(&w.mem, DT_f32, i < 3 ? 3 : 2, dim[i], (uint32_t)i + 1);
        for (int64_t e = 0; e < tensor_count(t); e++) ((float *)(uintptr_t)t->data)[e] *= i < 3 ? 0.2F : 0.1F;
        part[i] = constant(t);
    }
    Val y[2];
    static const Loc loc = {.node = "rnn"};
    graph_emit(g, op, attr, part, 4, 2, &loc, y);
    return y[0];
}

static double noise_db(const Tensor *a, const Tensor *b)
{
    double signal = 0, noise = 0;
    for (int64_t i = 0; i < tensor_count(a); i++) {
        double v = dtype_load(DT_f32, a->data, i), e = v - dtype_load(DT_f32, b->data, i);
        signal += v * v, noise += e * e;
    }
    return 10 * log10(signal / noise);
}

static const Tensor *interpreted(const Graph *flat)
{
    const Tensor *y[1];
    int *buf_of;
    Kernel *k = lower_graph(flat, &w.mem, &buf_of);
    cr_assert(k && interpret(flat, k, &w.mem, in, y, &w.diag), "%s", w.diag.line.n ? w.diag.line.at[0] : "not lowered");
    return y[0];
}

static void check_states(const char *name, int gates, bool before_reset, bool both)
{
    Quantization q = {.mem = &w.mem};
    PassCtx ctx = {.module = &w.module, .mem = &w.mem, .scratch = &w.scratch, .quant = &q};
    g = graph_new(&w.module, &w.mem, "states");
    graph_output(g, recurrent(name, gates, before_reset, both), "y");
    Graph *plain = pass_expand(g, &ctx);
    g = pass_quantize(plain, &ctx);
    int integers = 0; /* what multiplies the input has no range and stays float */
    for (uint32_t i = 0; i < q.layer.n; i++) integers += q.layer.at[i].state == LAYER_INTEGER && q.layer.at[i].states && q.layer.at[i].weight_sqnr > 35;
    cr_expect_eq(integers, both ? 2 : 1, "%s", name);
    want[0] = interpreted(g), what[0] = name, room_of[0] = 2e-3; /* a code that falls to the other side moves results by less */
    double db = noise_db(interpreted(plain), want[0]);
    cr_expect(db > 30 && db < 80, "%s: %g dB", name, db);
    run_levels();
}

Test(sums, states_of_an_lstm_that_is_quantized) { check_states("LSTM", 4, false, false); }
Test(sums, states_of_both_directions) { check_states("LSTM", 4, false, true); }
Test(sums, states_of_a_gru) { check_states("GRU", 3, true, false); }
Test(sums, states_of_a_gru_after_the_reset) { check_states("GRU", 3, false, true); }
Test(sums, states_of_an_rnn) { check_states("RNN", 1, false, false); }
