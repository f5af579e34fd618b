/* Rows of conv, matmul, pool, norm, resize, rnn, quant, microsoft: small cases by hand, folded by the interpreter. The official
 * ONNX tests cover every attribute (tests/onnx). */
#include "ir/lower.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

typedef struct Bench { Arena mem; Diag diag; Module *m; Graph *g; } Bench;

static Bench *bench(void)
{
    Bench *b = calloc(1, sizeof *b);
    b->diag.mem = &b->mem, b->diag.subject = "";
    b->m = NEW(&b->mem, Module);
    *b->m = (Module){.mem = &b->mem, .dim = dims_new(&b->mem), .diag = &b->diag, .name = "t", .folder = "."};
    b->g = graph_new(b->m, &b->mem, "t");
    b->g->fold_edges = true;
    return b;
}

/* A constant of any type; values repeat when there are fewer than elements. */
static Val konst(Bench *b, DType t, int rank, const int64_t *dim, int n, const double *v)
{
    Tensor *x = tensor_new(&b->mem, t, rank, dim);
    for (int64_t i = 0; i < tensor_count(x); i++) dtype_store(t, (void *)(uintptr_t)x->data, i, v[i % n]);
    return graph_const(b->g, x, NULL);
}
#define D(...) ((const int64_t[]){__VA_ARGS__})
#define V(...) ((const double[]){__VA_ARGS__})
#define COUNT(...) (int)(sizeof((const double[]){__VA_ARGS__}) / sizeof(double))
#define K(b, t, rank, dims, ...) konst(b, DT_##t, rank, dims, COUNT(__VA_ARGS__), V(__VA_ARGS__))

typedef struct Set { const char *name; int64_t i; const int64_t *ints; uint32_t n; const char *s; double f; } Set;
#define INT(n_, v) {.name = n_, .i = v}
#define INTS(n_, ...) {.name = n_, .ints = (const int64_t[]){__VA_ARGS__}, .n = sizeof((const int64_t[]){__VA_ARGS__}) / 8}
#define STR(n_, v) {.name = n_, .s = v}
#define FLOAT(n_, v) {.name = n_, .f = v}

static Val op(Bench *b, const char *domain, const char *name, const Set *set, int nset, uint32_t nout, Val *out, int nin, const Val *in)
{
    const OpDef *def = op_find(domain, name);
    cr_assert(def != NULL, "%s", name);
    Attr *a = op_attr_defaults(&b->mem, def);
    for (int i = 0; i < nset; i++) {
        if (set[i].ints) attr_set_ints(def, a, set[i].name, set[i].ints, set[i].n);
        else if (set[i].s) attr_set_str(def, a, set[i].name, set[i].s);
        else if (set[i].f != 0) attr_set_float(def, a, set[i].name, (float)set[i].f);
        else attr_set_int(def, a, set[i].name, set[i].i);
    }
    return graph_emit(b->g, def, a, in, (uint32_t)nin, nout, NULL, out);
}
#define VALS(...) (int)(sizeof((Val[]){__VA_ARGS__}) / sizeof(Val)), (Val[]){__VA_ARGS__}
#define SETS(...) (Set[]){__VA_ARGS__}, (int)(sizeof((Set[]){__VA_ARGS__}) / sizeof(Set))

static void expect(Bench *b, Val v, int n, const double *want, double tolerance)
{
    const Tensor *t = graph_val(b->g, v)->konst;
    diag_print(&b->diag, stderr);
    cr_assert(t != NULL);
    cr_assert(tensor_count(t) == n, "%lld elements", (long long)tensor_count(t));
    for (int i = 0; i < n; i++) {
        double got = dtype_load(t->type, t->data, i);
        cr_expect(fabs(got - want[i]) <= tolerance, "[%d] is %.9g, expected %.9g", i, got, want[i]);
    }
}
#define EXPECT(b, v, ...) expect(b, v, COUNT(__VA_ARGS__), V(__VA_ARGS__), 1e-5)

Test(ops2, conv_pads_and_bias)
{
    Bench *b = bench();
    Val x = K(b, f32, 4, D(1, 1, 2, 2), 1, 2, 3, 4), w = K(b, f32, 4, D(1, 1, 2, 2), 1), bias = K(b, f32, 1, D(1), 10);
    EXPECT(b, op(b, NULL, "Conv", NULL, 0, 1, NULL, VALS(x, w, bias)), 20);
    EXPECT(b, op(b, NULL, "Conv", SETS(INTS("pads", 1, 0, 0, 0)), 1, NULL, VALS(x, w, bias)), 13, 20);
    EXPECT(b, op(b, NULL, "Conv", SETS(STR("auto_pad", "SAME_UPPER")), 1, NULL, VALS(x, w)), 10, 6, 7, 4);
}

Test(ops2, conv_groups_and_depthwise)
{
    Bench *b = bench();
    Val x = K(b, f32, 3, D(1, 4, 1), 1, 2, 3, 4), w = K(b, f32, 3, D(4, 2, 1), 1, 10), d = K(b, f32, 3, D(4, 1, 1), 1, 2, 3, 4);
    EXPECT(b, op(b, NULL, "Conv", SETS(INT("group", 2)), 1, NULL, VALS(x, w)), 21, 21, 43, 43);
    EXPECT(b, op(b, NULL, "Conv", SETS(INT("group", 4)), 1, NULL, VALS(x, d)), 1, 4, 9, 16);
}

/* No padding, no guard: the contraction is a plain product of two loads. */
static int count_prim(const Kernel *k, Prim p)
{
    int n = 0;
    for (uint32_t e = 1; e <= expr_count(k); e++) n += expr_node(k, e)->kind == E_PRIM && expr_node(k, e)->prim == p;
    return n;
}

static Kernel *lower_conv(Bench *b, int64_t pad)
{
    Type x = {.dtype = DT_f32, .rank = 4}, w = {.dtype = DT_f32, .rank = 4};
    const int64_t xd[] = {1, 3, 8, 8}, wd[] = {4, 3, 3, 3};
    for (int i = 0; i < 4; i++) x.dim[i] = dim_const(b->m->dim, xd[i]), w.dim[i] = dim_const(b->m->dim, wd[i]);
    Val in[] = {graph_input(b->g, "x", x), graph_input(b->g, "w", w)};
    const int64_t pads[] = {pad, pad, pad, pad};
    Set set = {.name = "pads", .ints = pads, .n = 4};
    graph_output(b->g, op(b, NULL, "Conv", &set, 1, 1, NULL, 2, in), "y");
    int *bufs;
    Kernel *k = lower_graph(b->g, &b->mem, &bufs);
    const char *why = NULL;
    cr_assert(k && kernel_verify(k, &why), "%s", why ? why : "refused");
    return k;
}

Test(ops2, conv_guards_only_padding)
{
    Kernel *without = lower_conv(bench(), 0), *with = lower_conv(bench(), 1);
    cr_expect(count_prim(without, P_guard) == 0);
    cr_expect(count_prim(with, P_guard) == 1);
    const Compute *c = &without->stage.at[0];
    cr_expect(c->how == P_add && expr_node(without, c->value)->prim == P_mul && c->reduces == 3);
}

Test(ops2, conv_transpose_phases)
{
    Bench *b = bench();
    Val x = K(b, f32, 3, D(1, 1, 2), 1, 10), w = K(b, f32, 3, D(1, 1, 3), 1, 2, 3);
    EXPECT(b, op(b, NULL, "ConvTranspose", SETS(INTS("strides", 2)), 1, NULL, VALS(x, w)), 1, 2, 13, 20, 30);
    EXPECT(b, op(b, NULL, "ConvTranspose", SETS(INTS("strides", 2), INTS("pads", 1, 1)), 1, NULL, VALS(x, w)), 2, 13, 20);
    EXPECT(b, op(b, NULL, "ConvTranspose", SETS(INTS("strides", 2), INTS("dilations", 2)), 1, NULL, VALS(x, w)), 1, 0, 12, 0, 23, 0, 30);
}

Test(ops2, conv_transpose_forms)
{
    Bench *b = bench(); /* two channels a phase; four convolutions; a phase without taps; groups; a dense one */
    Val x = K(b, f32, 4, D(1, 1, 1, 2), 1, 10), w = K(b, f32, 4, D(1, 1, 2, 2), 1, 2, 3, 4), bias = K(b, f32, 1, D(1), 100);
    EXPECT(b, op(b, NULL, "ConvTranspose", SETS(INTS("strides", 2, 2)), 1, NULL, VALS(x, w, bias)), 101, 102, 110, 120, 103, 104, 130, 140);
    Val w3 = K(b, f32, 4, D(1, 1, 3, 3), 1, 2, 3, 4, 5, 6, 7, 8, 9);
    EXPECT(b, op(b, NULL, "ConvTranspose", SETS(INTS("strides", 2, 2), INTS("pads", 1, 1, 1, 1), INTS("output_padding", 1, 1)), 1, NULL, VALS(x, w3)),
           5, 46, 50, 60, 8, 79, 80, 90);
    Val w1 = K(b, f32, 4, D(1, 1, 1, 1), 2);
    EXPECT(b, op(b, NULL, "ConvTranspose", SETS(INTS("strides", 1, 2)), 1, NULL, VALS(x, w1)), 2, 0, 20);
    Val x2 = K(b, f32, 3, D(1, 2, 2), 1, 2, 3, 4), w2 = K(b, f32, 3, D(2, 1, 2), 1, 10, 1, -1);
    EXPECT(b, op(b, NULL, "ConvTranspose", SETS(INT("group", 2), INTS("strides", 2)), 1, NULL, VALS(x2, w2)), 1, 10, 2, 20, 3, -3, 4, -4);
    EXPECT(b, op(b, NULL, "ConvTranspose", SETS(INTS("pads", 1, 0)), 1, NULL, VALS(x2, w2)), 13, 16);
}

Test(ops2, conv_reports_channels)
{
    Bench *b = bench();
    Val x = K(b, f32, 3, D(1, 3, 4), 1), w = K(b, f32, 3, D(2, 2, 1), 1);
    op(b, NULL, "Conv", NULL, 0, 1, NULL, VALS(x, w));
    cr_expect(b->diag.errors == 1);
}

Test(ops2, fourier_transforms)
{
    Bench *b = bench();
    Val x = K(b, f32, 3, D(1, 4, 1), 1, 2, 3, 4), up = K(b, f32, 3, D(4, 1, 1), 1, 2, 3, 4), none = {0};
    Val two = K(b, i64, 0, NULL, 2), six = K(b, i64, 0, NULL, 6), first = K(b, i64, 0, NULL, 0);
    Val all = op(b, NULL, "DFT", NULL, 0, 1, NULL, VALS(x)), half = op(b, NULL, "DFT", SETS(INT("onesided", 1)), 1, NULL, VALS(x));
    EXPECT(b, all, 10, 0, -2, 2, -2, 0, -2, -2);
    EXPECT(b, half, 10, 0, -2, 2, -2, 0);
    EXPECT(b, op(b, NULL, "DFT", NULL, 0, 1, NULL, VALS(up, none, first)), 10, 0, -2, 2, -2, 0, -2, -2);
    EXPECT(b, op(b, NULL, "DFT", NULL, 0, 1, NULL, VALS(x, two)), 3, 0, -1, 0);
    EXPECT(b, op(b, NULL, "DFT", SETS(INT("onesided", 1)), 1, NULL, VALS(x, six)), 10, 0, -3.5, -4.330127, 2.5, 0.8660254, -2, 0);
    EXPECT(b, op(b, NULL, "DFT", SETS(INT("inverse", 1)), 1, NULL, VALS(all)), 1, 0, 2, 0, 3, 0, 4, 0);
    EXPECT(b, op(b, NULL, "DFT", SETS(INT("inverse", 1), INT("onesided", 1)), 1, NULL, VALS(half)), 1, 2, 3, 4);
    op(b, NULL, "DFT", SETS(INT("onesided", 1)), 1, NULL, VALS(all));
    cr_expect(b->diag.errors == 1, "half a spectrum of complex numbers");
}

Test(ops2, short_time_transforms_and_windows)
{
    Bench *b = bench();
    Val x = K(b, f32, 2, D(1, 6), 1, 2, 3, 4, 5, 6), parts = K(b, f32, 3, D(1, 4, 2), 1, 0, 2, 0, 3, 0, 4, 0), none = {0};
    Val two = K(b, i64, 0, NULL, 2), four = K(b, i64, 0, NULL, 4), window = K(b, f32, 1, D(4), 0, 1, 0, 1);
    EXPECT(b, op(b, NULL, "STFT", NULL, 0, 1, NULL, VALS(x, two, none, four)), 10, 0, -2, 2, -2, 0, 18, 0, -2, 2, -2, 0);
    EXPECT(b, op(b, NULL, "STFT", NULL, 0, 1, NULL, VALS(x, two, window)), 6, 0, 0, 2, -6, 0, 10, 0, 0, 2, -10, 0);
    EXPECT(b, op(b, NULL, "STFT", SETS(INT("onesided", 0)), 1, NULL, VALS(parts, two, none, four)), 10, 0, -2, 2, -2, 0, -2, -2);
    EXPECT(b, op(b, NULL, "HannWindow", NULL, 0, 1, NULL, VALS(four)), 0, 0.5, 1, 0.5);
    EXPECT(b, op(b, NULL, "HannWindow", SETS(INT("periodic", 0)), 1, NULL, VALS(four)), 0, 0.75, 0.75, 0);
    EXPECT(b, op(b, NULL, "HammingWindow", NULL, 0, 1, NULL, VALS(two)), 2 / 23.0, 1);
    EXPECT(b, op(b, NULL, "BlackmanWindow", NULL, 0, 1, NULL, VALS(four)), 0, 0.34, 1, 0.34);
    cr_expect(dim_is(b->m->dim, val_type(b->g, op(b, NULL, "HannWindow", NULL, 0, 1, NULL, VALS(K(b, i64, 0, NULL, -5))))->dim[0], 0));
    op(b, NULL, "STFT", NULL, 0, 1, NULL, VALS(K(b, f32, 2, D(1, 3), 1), two, window));
    cr_expect(b->diag.errors == 1, "a signal shorter than a frame");
}

Test(ops2, matmul_broadcasts)
{
    Bench *b = bench();
    Val a = K(b, f32, 3, D(2, 1, 2), 1, 2, 3, 4), m = K(b, f32, 2, D(2, 2), 1, 2, 3, 4), v = K(b, f32, 1, D(2), 1, 1);
    EXPECT(b, op(b, NULL, "MatMul", NULL, 0, 1, NULL, VALS(a, m)), 7, 10, 15, 22);
    EXPECT(b, op(b, NULL, "MatMul", NULL, 0, 1, NULL, VALS(v, v)), 2);
    EXPECT(b, op(b, NULL, "MatMul", NULL, 0, 1, NULL, VALS(v, m)), 4, 6);
    EXPECT(b, op(b, NULL, "MatMul", NULL, 0, 1, NULL, VALS(m, v)), 3, 7);
}

Test(ops2, gemm_transposes)
{
    Bench *b = bench();
    Val a = K(b, f32, 2, D(1, 2), 1, 2), w = K(b, f32, 2, D(3, 2), 1, 2, 3, 4, 5, 6), c = K(b, f32, 1, D(3), 100);
    EXPECT(b, op(b, NULL, "Gemm", SETS(INT("transB", 1)), 1, NULL, VALS(a, w, c)), 105, 111, 117);
}

Test(ops2, einsum_letters)
{
    Bench *b = bench();
    Val a = K(b, f32, 2, D(2, 2), 1, 2, 3, 4);
    EXPECT(b, op(b, NULL, "Einsum", SETS(STR("equation", "ij->ji")), 1, NULL, VALS(a)), 1, 3, 2, 4);
    EXPECT(b, op(b, NULL, "Einsum", SETS(STR("equation", "ii")), 1, NULL, VALS(a)), 5);
    EXPECT(b, op(b, NULL, "Einsum", SETS(STR("equation", "...i,...i->...")), 1, NULL, VALS(a, a)), 5, 25);
}

Test(ops2, pools)
{
    Bench *b = bench();
    Val x = K(b, f32, 3, D(1, 1, 4), 1, 5, 5, 2), out[2];
    op(b, NULL, "MaxPool", SETS(INTS("kernel_shape", 2), INTS("strides", 2)), 2, out, VALS(x));
    EXPECT(b, out[0], 5, 5);
    EXPECT(b, out[1], 1, 2);
    EXPECT(b, op(b, NULL, "AveragePool", SETS(INTS("kernel_shape", 3), INTS("pads", 1, 1)), 1, NULL, VALS(x)), 3, 11.0 / 3, 4, 3.5);
    EXPECT(b, op(b, NULL, "AveragePool", SETS(INTS("kernel_shape", 3), INTS("pads", 1, 1), INT("count_include_pad", 1)), 1, NULL, VALS(x)),
           2, 11.0 / 3, 4, 7.0 / 3);
    EXPECT(b, op(b, NULL, "AveragePool", SETS(INTS("kernel_shape", 3), INTS("strides", 2), INT("ceil_mode", 1)), 1, NULL, VALS(x)), 11.0 / 3, 3.5);
}

Test(ops2, softmax_any_axis)
{
    Bench *b = bench();
    Val x = K(b, f32, 2, D(2, 2), 0, 1, 0, 3);
    double e1 = 1 / (1 + exp(1)), e3 = 1 / (1 + exp(3)), e2 = 1 / (1 + exp(2));
    EXPECT(b, op(b, NULL, "Softmax", NULL, 0, 1, NULL, VALS(x)), e1, 1 - e1, e3, 1 - e3);
    EXPECT(b, op(b, NULL, "Softmax", SETS(INT("axis", 0)), 1, NULL, VALS(x)), 0.5, e2, 0.5, 1 - e2);
    EXPECT(b, op(b, NULL, "Hardmax", NULL, 0, 1, NULL, VALS(x)), 0, 1, 0, 1);
}

Test(ops2, normalizations)
{
    Bench *b = bench();
    Val x = K(b, f32, 2, D(1, 4), 1, 2, 3, 4), one = K(b, f32, 1, D(4), 1), zero = K(b, f32, 1, D(4), 0);
    double s = 1 / sqrt(1.25 + 1e-5), r = 1 / sqrt(7.5 + 1e-5);
    EXPECT(b, op(b, NULL, "LayerNormalization", NULL, 0, 1, NULL, VALS(x, one, zero)), -1.5 * s, -0.5 * s, 0.5 * s, 1.5 * s);
    EXPECT(b, op(b, NULL, "RMSNormalization", NULL, 0, 1, NULL, VALS(x, one)), r, 2 * r, 3 * r, 4 * r);
    Val y = K(b, f32, 3, D(1, 2, 2), 1, 2, 3, 4), c = K(b, f32, 1, D(2), 2, 4), z = K(b, f32, 1, D(2), 0);
    EXPECT(b, op(b, NULL, "BatchNormalization", NULL, 0, 1, NULL, VALS(y, c, z, z, c)), 2 / sqrt(2), 4 / sqrt(2), 6, 8);
}

Test(ops2, resize_rules)
{
    Bench *b = bench();
    Val x = K(b, f32, 3, D(1, 1, 2), 1, 3), none = {0}, sizes = K(b, i64, 1, D(3), 1, 1, 4);
    EXPECT(b, op(b, NULL, "Resize", NULL, 0, 1, NULL, VALS(x, none, none, sizes)), 1, 1, 3, 3);
    EXPECT(b, op(b, NULL, "Resize", SETS(STR("mode", "linear")), 1, NULL, VALS(x, none, none, sizes)), 1, 1.5, 2.5, 3);
    EXPECT(b, op(b, NULL, "Resize", SETS(STR("mode", "linear"), STR("coordinate_transformation_mode", "align_corners")), 1, NULL,
                 VALS(x, none, none, sizes)), 1, 5.0 / 3, 7.0 / 3, 3);
}

/* Pixels that are 4 y + x, between which samples are too. */
Test(ops2, regions_are_sampled)
{
    Bench *b = bench();
    Val x = K(b, f32, 4, D(1, 1, 4, 4), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), first = K(b, i64, 1, D(1), 0), all = K(b, i64, 1, D(3), 0);
    Val one = K(b, f32, 2, D(1, 4), .5, .5, 2.5, 2.5), far = K(b, f32, 2, D(3, 4), .5, .5, 2.5, 2.5, 90, 90, 95, 95, 2, 2, 1, 1);
    Val huge = K(b, f32, 2, D(1, 4), -1e9, -1e9, 1e9, 1e9), turned = K(b, f32, 2, D(1, 4), 1, 1, 0, 0);
    EXPECT(b, op(b, NULL, "RoiAlign", SETS(INT("output_height", 2), INT("output_width", 2)), 1, NULL, VALS(x, one, first)), 2.5, 3.5, 6.5, 7.5);
    EXPECT(b, op(b, NULL, "RoiAlign", SETS(INT("output_height", 2), INT("output_width", 1), INT("sampling_ratio", 2)), 1, NULL, VALS(x, one, first)), 3, 7);
    EXPECT(b, op(b, NULL, "RoiAlign", NULL, 0, 1, NULL, VALS(x, far, all)), 5, 0, 0); /* beside the image; its end before its start */
    EXPECT(b, op(b, NULL, "RoiAlign", NULL, 0, 1, NULL, VALS(x, huge, first)), 0);    /* few of its samples are visited */
    EXPECT(b, op(b, NULL, "RoiAlign", SETS(FLOAT("spatial_scale", .5)), 1, NULL, VALS(x, one, first)), 1.25);
    EXPECT(b, op(b, NULL, "RoiAlign", SETS(STR("coordinate_transformation_mode", "output_half_pixel")), 1, NULL, VALS(x, turned, first)), 7.5); /* one pixel */
}

/* A bin of fewer samples than another one has no zeros instead; a sample beside the image is one. */
Test(ops2, regions_have_maxima)
{
    Bench *b = bench();
    Val x = K(b, f32, 4, D(1, 1, 4, 4), -1), two = K(b, f32, 2, D(3, 4), .5, .5, 1.5, 1.5, .5, .5, 2.5, 2.5, 2.5, .5, 8.5, 1.5), all = K(b, i64, 1, D(3), 0);
    EXPECT(b, op(b, NULL, "RoiAlign", SETS(STR("mode", "max")), 1, NULL, VALS(x, two, all)), -.25, -.25, 0);
    Val p = K(b, f32, 4, D(1, 1, 4, 4), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), rois = K(b, f32, 2, D(3, 5), 0, 0, 0, 3, 3, 0, 1.5, .4, 1.6, .4, 0, 9, 9, 9, 9);
    EXPECT(b, op(b, NULL, "MaxRoiPool", SETS(INTS("pooled_shape", 2, 2)), 1, NULL, VALS(p, rois)), 5, 7, 13, 15, 2, 2, 2, 2, 0, 0, 0, 0);
}

Test(ops2, regions_of_no_image)
{
    for (int i = 0; i < 6; i++) {
        Bench *b = bench();
        Val x = K(b, f32, 4, D(2, 1, 4, 4), 1), rois = K(b, f32, 2, D(1, 4), 1, 1, 3, 3), three = K(b, f32, 2, D(1, 3), 1), at = K(b, i64, 1, D(1), 2), few = K(b, i64, 1, D(2), 0);
        Val none = K(b, f32, 4, D(2, 1, 0, 4), 1), y = {0};
        if (i == 0) y = op(b, NULL, "RoiAlign", NULL, 0, 1, NULL, VALS(x, rois, at)); /* there are two */
        if (i == 1) op(b, NULL, "RoiAlign", NULL, 0, 1, NULL, VALS(x, three, at));
        if (i == 2) op(b, NULL, "RoiAlign", NULL, 0, 1, NULL, VALS(x, rois, few));
        if (i == 3) op(b, NULL, "RoiAlign", NULL, 0, 1, NULL, VALS(none, rois, at));
        if (i == 4) op(b, NULL, "RoiAlign", SETS(INT("sampling_ratio", -1)), 1, NULL, VALS(x, rois, at));
        if (i == 5) op(b, NULL, "MaxRoiPool", SETS(INTS("pooled_shape", 2, 0)), 1, NULL, VALS(x, rois));
        cr_expect(b->diag.errors == (i > 0), "%d: %d errors", i, b->diag.errors);
        cr_expect(i || !graph_val(b->g, y)->konst);
    }
}

Test(ops2, columns_are_added_where_they_came_from)
{
    Bench *b = bench();
    Val image = K(b, i64, 1, D(2), 3, 3), block = K(b, i64, 1, D(2), 2, 2), x = K(b, f32, 3, D(1, 4, 4), 1), n = K(b, i8, 3, D(1, 4, 1), 1, 2, 3, 4);
    EXPECT(b, op(b, NULL, "Col2Im", NULL, 0, 1, NULL, VALS(x, image, block)), 1, 2, 1, 2, 4, 2, 1, 2, 1);
    EXPECT(b, op(b, NULL, "Col2Im", SETS(INTS("dilations", 2, 2)), 1, NULL, VALS(n, image, block)), 1, 0, 2, 0, 0, 0, 3, 0, 4);
    Val line = K(b, i64, 1, D(1), 5), taps = K(b, i64, 1, D(1), 3), rows = K(b, f32, 3, D(1, 3, 3), 1, 2, 3, 10, 20, 30, 100, 200, 300);
    EXPECT(b, op(b, NULL, "Col2Im", SETS(INTS("strides", 2), INTS("pads", 1, 1)), 1, NULL, VALS(rows, line, taps)), 10, 102, 20, 203, 30);
    EXPECT(b, op(b, NULL, "Col2Im", SETS(INTS("strides", 2), INTS("dilations", 2), INTS("pads", 2, 2)), 1, NULL, VALS(rows, line, taps)), 12, 0, 123, 0, 230);
    op(b, NULL, "Col2Im", SETS(INTS("pads", 0, 0, 1, 1)), 1, NULL, VALS(x, image, block));
    cr_expect(b->diag.errors == 1);
}

/* Without offsets it is a convolution; half a pixel further it reads means, and zeros beside the image. */
Test(ops2, taps_are_moved)
{
    Bench *b = bench();
    Val x = K(b, f32, 4, D(1, 2, 1, 3), 1, 2, 3, 10, 20, 30), w = K(b, f32, 4, D(1, 2, 1, 2), 1, 2, 3, 4), o = K(b, f32, 4, D(1, 4, 1, 2), 0), bias = K(b, f32, 1, D(1), 7), none = {0};
    EXPECT(b, op(b, NULL, "DeformConv", NULL, 0, 1, NULL, VALS(x, w, o, bias)), 122, 195);
    Val point = K(b, f32, 4, D(2, 1, 1, 1), 1, 2), sets = K(b, f32, 4, D(1, 4, 1, 3), 0, 0, 0, .5, .5, .5, -.5, 0, 9, 0, 0, -1), mask = K(b, f32, 4, D(1, 2, 1, 3), 1, 1, 1, 2, 3, 4);
    EXPECT(b, op(b, NULL, "DeformConv", SETS(INT("group", 2), INT("offset_group", 2)), 1, NULL, VALS(x, point, sets, none, mask)), 1.5, 2.5, 1.5, 20, 120, 0);
    op(b, NULL, "DeformConv", SETS(INT("offset_group", 2)), 1, NULL, VALS(x, w, o));
    cr_expect(b->diag.errors == 1);
}

Test(ops2, determinants)
{
    Bench *b = bench();
    EXPECT(b, op(b, NULL, "Det", NULL, 0, 1, NULL, VALS(K(b, f32, 2, D(2, 2), 0, 2, 3, 4))), -6);
    EXPECT(b, op(b, NULL, "Det", NULL, 0, 1, NULL, VALS(K(b, f64, 3, D(2, 3, 3), 2, 0, 1, 1, 3, 2, 1, 1, 4, 1, 2, 3, 2, 4, 6, 1, 1, 1))), 18, 0);
    EXPECT(b, op(b, NULL, "Det", NULL, 0, 1, NULL, VALS(K(b, f32, 2, D(0, 0), 0))), 1);
    op(b, NULL, "Det", NULL, 0, 1, NULL, VALS(K(b, f32, 2, D(2, 3), 0)));
    cr_expect(b->diag.errors == 1);
}

Test(ops2, quantize_rounds_half_to_even)
{
    Bench *b = bench();
    Val x = K(b, f32, 1, D(5), 0.5, 1.5, 2.5, -0.5, 1000), s = K(b, f32, 0, NULL, 1), z = K(b, u8, 0, NULL, 10);
    Val q = op(b, NULL, "QuantizeLinear", NULL, 0, 1, NULL, VALS(x, s, z));
    EXPECT(b, q, 10, 12, 12, 10, 255);
    EXPECT(b, op(b, NULL, "DequantizeLinear", NULL, 0, 1, NULL, VALS(q, s, z)), 0, 2, 2, 0, 245);
    Val scales = K(b, f32, 2, D(2, 1), 1, 10), m = K(b, i8, 2, D(4, 1), 1, 2, 3, 4);
    EXPECT(b, op(b, NULL, "DequantizeLinear", SETS(INT("axis", 0), INT("block_size", 2)), 1, NULL, VALS(m, scales)), 1, 2, 30, 40);
}

/* Every pairing of signs and zero points gives the exact sum. */
Test(ops2, integer_products_are_exact)
{
    static const DType types[] = {DT_u8, DT_i8};
    for (int i = 0; i < 4; i++) {
        Bench *b = bench();
        DType ta = types[i & 1], tb = types[i >> 1];
        double a0 = (double)dtype_min(ta), a1 = (double)dtype_max(ta), b0 = (double)dtype_min(tb), b1 = (double)dtype_max(tb);
        Val a = konst(b, ta, 2, D(1, 2), 2, V(a0, a1)), w = konst(b, tb, 2, D(2, 1), 2, V(b1, b0));
        Val az = konst(b, ta, 0, NULL, 1, V(7)), wz = konst(b, tb, 0, NULL, 1, V(3));
        Val y = op(b, NULL, "MatMulInteger", NULL, 0, 1, NULL, VALS(a, w, az, wz));
        EXPECT(b, y, (a0 - 7) * (b1 - 3) + (a1 - 7) * (b0 - 3));
        Val x = konst(b, ta, 3, D(1, 2, 1), 2, V(a0, a1)), k = konst(b, tb, 3, D(1, 2, 2), 4, V(b1, b0, b0, b1));
        Val c = op(b, NULL, "ConvInteger", SETS(INTS("pads", 1, 0)), 1, NULL, VALS(x, k, az, wz));
        EXPECT(b, c, (a0 - 7) * (b0 - 3) + (a1 - 7) * (b1 - 3));
    }
}

Test(ops2, requantization)
{
    Bench *b = bench();
    Val acc = K(b, i32, 1, D(4), 5, 15, -1000, 100000), s = K(b, f32, 0, NULL, 0.1), z = K(b, i8, 0, NULL, 1);
    EXPECT(b, op(b, "octet", "Requant", NULL, 0, 1, NULL, VALS(acc, s, z)), 1, 3, -99, 127);
}

Test(ops2, qlinear_where_takes_codes_of_the_result)
{
    Bench *b = bench();
    Val when = K(b, bool, 1, D(3), 1, 0, 1), x = K(b, u8, 1, D(3), 10, 11, 255), y = K(b, u8, 1, D(1), 7), z = K(b, u8, 0, NULL, 3), two = K(b, f32, 0, NULL, 2);
    EXPECT(b, op(b, "com.microsoft", "QLinearWhere", NULL, 0, 1, NULL, VALS(when, x, two, z, y, K(b, f32, 0, NULL, 0.5), z, K(b, f32, 0, NULL, 1), z)), 17, 5, 255);
}

/* 1 is as many steps as the reciprocal of the scale has whole ones: 170 of 170.9; 254 of the 254.99998 that 1/255 is in float32. */
Test(ops2, qlinear_softmax_has_whole_steps)
{
    Bench *b = bench();
    Val one = K(b, f32, 0, NULL, 1), z = K(b, u8, 0, NULL, 0), deep = K(b, u8, 1, D(2), 255, 0);
    EXPECT(b, op(b, "com.microsoft", "QLinearSoftmax", NULL, 0, 1, NULL, VALS(deep, one, z, K(b, f32, 0, NULL, 0.00585), z)), 170, 0);
    EXPECT(b, op(b, "com.microsoft", "QLinearSoftmax", NULL, 0, 1, NULL, VALS(deep, one, z, K(b, f32, 0, NULL, 1.0 / 255), z)), 254, 0);
    EXPECT(b, op(b, "com.microsoft", "QLinearSoftmax", NULL, 0, 1, NULL, VALS(deep, one, z, K(b, f32, 0, NULL, 1.0 / 256), z)), 255, 0);
}

Test(ops2, lstm_one_step)
{
    Bench *b = bench();
    Val x = K(b, f32, 3, D(1, 1, 1), 1), w = K(b, f32, 3, D(1, 4, 1), 0.5), r = K(b, f32, 3, D(1, 4, 1), 1), out[3];
    op(b, NULL, "LSTM", NULL, 0, 3, out, VALS(x, w, r));
    double g = 1 / (1 + exp(-0.5)), c = g * tanh(0.5);
    EXPECT(b, out[0], g * tanh(c));
    EXPECT(b, out[1], g * tanh(c));
    EXPECT(b, out[2], c);
}

static Val one_gate(Bench *b, const char *function, double at)
{
    const OpDef *def = op_find(NULL, "RNN");
    Attr *a = op_attr_defaults(&b->mem, def);
    Val x = K(b, f32, 3, D(1, 1, 1), at), w = K(b, f32, 3, D(1, 1, 1), 1), r = K(b, f32, 3, D(1, 1, 1), 0);
    const char **name = arena_copy(&b->mem, &function, sizeof function);
    a[op_attr_index(def, "activations")] = (Attr){.kind = ATTR_STRINGS, .n = 1, .strings = name};
    return graph_emit(b->g, def, a, (Val[]){x, w, r}, 3, 1, NULL, NULL);
}

/* Gates are near their functions everywhere. */
Test(ops2, gates_are_sigmoids_and_tanhs)
{
    Bench *b = bench();
    for (int i = -100; i <= 100; i++) {
        double at = 0.25 * i, tangent = tanh(at), logistic = 1 / (1 + exp(-at));
        expect(b, one_gate(b, "Tanh", at), 1, &tangent, 5e-7);
        expect(b, one_gate(b, "Sigmoid", at), 1, &logistic, 5e-7);
    }
}

Test(ops2, gru_reverse_with_lengths)
{
    Bench *b = bench();
    Val x = K(b, f32, 3, D(2, 2, 1), 1, 1, 2, 2), w = K(b, f32, 3, D(1, 3, 1), 0, 0, 1), r = K(b, f32, 3, D(1, 3, 1), 0), none = {0};
    Val lens = K(b, i32, 1, D(2), 2, 1), y = op(b, NULL, "GRU", SETS(STR("direction", "reverse")), 1, NULL, VALS(x, w, r, none, lens));
    double late = 0.5 * tanh(2), early = 0.5 * tanh(1) + 0.5 * late;
    EXPECT(b, y, early, 0.5 * tanh(1), late, 0);
}

Test(ops2, nbits_weights)
{
    Bench *b = bench();
    Val a = K(b, f32, 2, D(1, 16), 1), w = K(b, u8, 3, D(1, 1, 8), 0x98), s = K(b, f32, 1, D(1), 0.5);
    Val y = op(b, "com.microsoft", "MatMulNBits", SETS(INT("K", 16), INT("N", 1), INT("block_size", 16)), 1, NULL, VALS(a, w, s));
    EXPECT(b, y, 4); /* codes 8 and 9 about 8: eight halves */
}

/* One query sees two keys, the causal frontier hides the second. */
Test(ops2, attention_masks)
{
    Bench *b = bench();
    Val q = K(b, f32, 4, D(1, 2, 1, 1), 1, 0), k = K(b, f32, 4, D(1, 1, 2, 1), 1, 2), v = K(b, f32, 4, D(1, 1, 2, 1), 10, 20);
    double p = 1 / (1 + exp(1));
    EXPECT(b, op(b, NULL, "Attention", NULL, 0, 1, NULL, VALS(q, k, v)), 10 * p + 20 * (1 - p), 15);
    EXPECT(b, op(b, NULL, "Attention", SETS(INT("is_causal", 1)), 1, NULL, VALS(q, k, v)), 10, 10);
}

/* What a lowering would read beyond the end is refused. */
Test(ops2, attention_checks_its_operands)
{
    Val none = {0};
    for (int i = 0; i < 6; i++) {
        Bench *b = bench();
        Val x = K(b, f32, 4, D(2, 1, 3, 4), 1), mask = K(b, f32, 4, D(3, 1, 3, 3), 0), past = K(b, f32, 4, D(2, 1, 2, 4), 1);
        Val less = K(b, f32, 4, D(2, 1, 1, 4), 1), count = K(b, i64, 1, D(3), 1);
        if (i == 0) op(b, NULL, "Attention", NULL, 0, 1, NULL, VALS(x, x, x, mask));
        if (i == 1) op(b, NULL, "Attention", NULL, 0, 1, NULL, VALS(x, x, x, none, past, less));
        if (i == 2) op(b, NULL, "Attention", NULL, 0, 1, NULL, VALS(x, x, x, none, none, none, count));
        Val narrow = K(b, f32, 2, D(5, 1), 1), wide = K(b, f32, 2, D(5, 2), 1), ids = K(b, i64, 2, D(2, 3), 1), few = K(b, i64, 2, D(2, 2), 1);
        if (i == 3) op(b, NULL, "RotaryEmbedding", NULL, 0, 1, NULL, VALS(x, narrow, narrow, ids));
        if (i == 4) op(b, NULL, "RotaryEmbedding", NULL, 0, 1, NULL, VALS(x, wide, wide, few));
        if (i == 5) op(b, NULL, "RotaryEmbedding", NULL, 0, 1, NULL, VALS(x, wide, narrow, ids));
        cr_expect(b->diag.errors == 1, "%d: %d errors", i, b->diag.errors);
    }
}

/* Entries whose caches are filled to different lengths; one head of one element. */
Test(ops2, rows_are_put_behind_a_cache)
{
    Bench *b = bench();
    Val rows = K(b, f32, 3, D(2, 1, 1), 7, 8), start = K(b, i64, 1, D(2), 3, 1), size = K(b, i64, 0, D(0), 4), past = K(b, f32, 4, D(2, 1, 3, 1), 1, 2, 3, 4, 5, 6);
    Val y = op(b, "octet", "KvAppend", SETS(INT("heads", 1)), 1, NULL, VALS(rows, start, size, past));
    EXPECT(b, y, 1, 2, 3, 7, 4, 8, 0, 0);
    Val two = K(b, i64, 0, D(0), 2), drop = K(b, i64, 1, D(2), 2, 1);
    y = op(b, "octet", "KvAppend", SETS(INT("heads", 1)), 1, NULL, VALS(rows, start, two, past, drop));
    EXPECT(b, y, 3, 7, 8, 0);
}

/* A window's cache of four rows and a window of three: of five positions the last three are kept, and the next step sees what the window holds. A window needs
 * its size and a cache of no fewer rows. */
Test(ops2, group_attention_in_a_window)
{
    Bench *b = bench();
    Val one = K(b, f32, 3, D(1, 1, 8), 1), lengths = K(b, i32, 1, D(1), 4), total = K(b, i32, 1, D(1), 5), none = {0};
    Val past = K(b, f32, 4, D(1, 1, 4, 8), 2), few = K(b, f32, 4, D(1, 1, 2, 8), 2), out[3];
    const Set window[] = {INT("num_heads", 1), INT("kv_num_heads", 1), INT("sliding_window_cache", 1), INT("local_window_size", 3)};
    op(b, "com.microsoft", "GroupQueryAttention", window, 4, 3, out, VALS(one, one, one, past, past, lengths, total));
    double e = exp(8 / sqrt(8)), y = (4 * e + 1) / (2 * e + 1); /* two keys of the cache, and the new one */
    EXPECT(b, out[0], y, y, y, y, y, y, y, y);
    EXPECT(b, out[1], 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    op(b, "com.microsoft", "GroupQueryAttention", window, 4, 1, NULL, VALS(one, one, one, few, few, lengths, total));
    cr_expect(b->diag.errors == 1, "a cache of fewer rows than the window");
    op(b, "com.microsoft", "GroupQueryAttention", window, 4, 1, NULL, VALS(one, one, one, none, none, lengths, total));
    cr_expect(b->diag.errors == 2, "no cache");
    op(b, "com.microsoft", "GroupQueryAttention", window, 3, 1, NULL, VALS(one, one, one, past, past, lengths, total));
    cr_expect(b->diag.errors == 3, "no window");
    const Set ahead[] = {window[0], window[1], window[2], window[3], INT("causal", 0)};
    op(b, "com.microsoft", "GroupQueryAttention", ahead, 5, 1, NULL, VALS(one, one, one, past, past, lengths, total));
    cr_expect(b->diag.errors == 4, "what comes later is seen");
}

/* A value that the model's attributes would change is not computed without them. */
Test(ops2, group_attention_refuses_what_it_cannot_do)
{
    Bench *b = bench();
    Val q = K(b, f32, 3, D(1, 1, 8), 1), lengths = K(b, i32, 1, D(1), 0), total = K(b, i32, 1, D(1), 1), none = {0};
    const Set heads[] = {INT("num_heads", 1), INT("kv_num_heads", 1), INT("qk_output", 1)};
    EXPECT(b, op(b, "com.microsoft", "GroupQueryAttention", heads, 2, 1, NULL, VALS(q, q, q, none, none, lengths, total)), 1, 1, 1, 1, 1, 1, 1, 1);
    op(b, "com.microsoft", "GroupQueryAttention", heads, 3, 1, NULL, VALS(q, q, q, none, none, lengths, total));
    cr_expect(b->diag.errors == 1);
}

/* One key and a sink of the same score: each has half of the softmax. A sink is one for each head, norms come by twos. */
Test(ops2, group_attention_with_sinks)
{
    Bench *b = bench();
    Val q = K(b, f32, 3, D(1, 1, 8), 1), lengths = K(b, i32, 1, D(1), 0), total = K(b, i32, 1, D(1), 1), sink = K(b, f32, 1, D(1), 2), two = K(b, f32, 1, D(2), 2), none = {0};
    const Set heads[] = {INT("num_heads", 1), INT("kv_num_heads", 1), FLOAT("scale", 0.25)};
    Val y = op(b, "com.microsoft", "GroupQueryAttention", heads, 3, 1, NULL, VALS(q, q, q, none, none, lengths, total, none, none, none, none, sink));
    EXPECT(b, y, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5);
    op(b, "com.microsoft", "GroupQueryAttention", heads, 3, 1, NULL, VALS(q, q, q, none, none, lengths, total, none, none, none, none, two));
    cr_expect(b->diag.errors == 1);
    op(b, "com.microsoft", "GroupQueryAttention", heads, 3, 1, NULL, VALS(q, q, q, none, none, lengths, total, none, none, none, none, none, none, none, q));
    cr_expect(b->diag.errors == 2);
}

/* Half a pixel beyond the last one: two taps at the border and the third weigh on it, the fourth does not; further out it is the border alone. */
Test(ops2, cubic_samples_leave_the_border)
{
    Bench *b = bench();
    Val x = K(b, f32, 4, D(1, 1, 1, 4), 0, 1, 2, 4), grid = K(b, f32, 4, D(1, 1, 2, 2), 7.0 / 3 - 1, 0, 9, 0);
    Val y = op(b, NULL, "GridSample", SETS(STR("mode", "cubic"), STR("padding_mode", "border"), INT("align_corners", 1)), 1, NULL, VALS(x, grid));
    EXPECT(b, y, 4.1875, 4);
}

/* Operands that a lowering reads at the places of others have the sizes of these. */
Test(ops2, operands_fit_each_other)
{
    for (int i = 0; i < 8; i++) {
        Bench *b = bench();
        Val x = K(b, f32, 3, D(2, 3, 4), 1), short_one = K(b, f32, 1, D(3), 1), one = K(b, f32, 1, D(4), 1), w = K(b, f32, 3, D(1, 8, 4), 1), r = K(b, f32, 3, D(1, 8, 2), 1),
            narrow = K(b, f32, 3, D(1, 7, 4), 1), h = K(b, f32, 3, D(1, 3, 2), 1), wrong = K(b, f32, 3, D(1, 2, 2), 1), none = {0};
        if (i == 0) op(b, NULL, "LayerNormalization", NULL, 0, 1, NULL, VALS(x, short_one));
        if (i == 1) op(b, NULL, "LayerNormalization", NULL, 0, 1, NULL, VALS(x, one, short_one));
        if (i == 2) op(b, NULL, "RMSNormalization", NULL, 0, 1, NULL, VALS(x, short_one));
        if (i == 3) op(b, NULL, "LSTM", NULL, 0, 1, NULL, VALS(x, narrow, r));
        if (i == 4) op(b, NULL, "LSTM", NULL, 0, 1, NULL, VALS(x, w, r, none, none, wrong));
        if (i == 5) op(b, NULL, "LSTM", NULL, 0, 1, NULL, VALS(x, w, r, none, none, h, h, wrong));
        Val theta = K(b, f32, 3, D(1, 2, 2), 1), size = K(b, i64, 1, D(4), 1, 1, 5, 5), log = K(b, f32, 2, D(2, 3), 1), class = K(b, i64, 1, D(2), 0), two = K(b, f32, 1, D(2), 1);
        if (i == 6) op(b, NULL, "AffineGrid", NULL, 0, 1, NULL, VALS(theta, size));
        if (i == 7) op(b, NULL, "NegativeLogLikelihoodLoss", NULL, 0, 1, NULL, VALS(log, class, two));
        cr_expect(b->diag.errors == 1, "%d: %d errors", i, b->diag.errors);
    }
}
