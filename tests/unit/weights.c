/* Weights as codes: how operators' constants become matrices, what grids and tensors say, and the methods on made-up layers. */
#include "passes/weights.h"
#include "tests/unit/option_rows.h"
#include "tests/unit/worlds.h"

/* The definition, with which codes_row() must agree. */
static float codes_value(const WeightCodes *c, int64_t row, int64_t col, int64_t in)
{
    int64_t at = codes_at(c, row, col);
    return (weight_code_number(&c->form, c->code[row * in + col]) - c->zero[at]) * c->scale[at];
}

static World w;
static void setup(void) { world_open(&w); }
static void teardown(void) { world_close(&w); }
TestSuite(weights, .init = setup, .fini = teardown);

static const WeightForm forms[] = {{.code = DT_i8},
                                   {.code = DT_i8, .asymmetric = true},
                                   {.code = DT_u8, .asymmetric = true},
                                   {.code = DT_u8},
                                   {.code = DT_i4},
                                   {.code = DT_i4, .asymmetric = true, .group = 3},
                                   {.code = DT_u4},
                                   {.code = DT_u4, .asymmetric = true},
                                   {.code = DT_u4, .asymmetric = true, .group = 4},
                                   {.code = DT_i4, .group = 2},
                                   {.code = DT_u4, .asymmetric = true, .fine = true, .group = 4},
                                   {.code = DT_u4, .fine = true, .group = 4},
                                   {.code = DT_f8e4m3fn},
                                   {.code = DT_f8e5m2},
                                   {.code = DT_f8e4m3fn, .group = 4}};

/* A graph of one contraction of made-up weights: Conv of 8 channels in 2 groups (W[6,4,3,2]), MatMul (W[7,5]) or in batches (W[3,7,5]). */
static const char *const layers[] = {
    "graph \"g\" (%1 \"x\": f32[N,8,9,9]) -> (%3 \"y\") { %2 = const f32[6,4,3,2] {W} \"w\" %3 = Conv(%1, %2) {group=2} }",
    "graph \"g\" (%1 \"x\": f32[N,7]) -> (%3 \"y\") { %2 = const f32[7,5] {W} \"w\" %3 = MatMul(%1, %2) }",
    "graph \"g\" (%1 \"x\": f32[3,N,7]) -> (%3 \"y\") { %2 = const f32[3,7,5] {W} \"w\" %3 = MatMul(%1, %2) }"};
static const int counts[] = {144, 35, 105};
enum { CONV, MATMUL, BATCHES, LAYERS };

static float value(int i) { return (float)((i * 37 + 11) % 101 - 40) / 50; }

static const Node *layer(int which, Graph **g)
{
    const char *text = layers[which], *at = strstr(text, "{W}"), *all = "";
    for (int i = 0; i < counts[which]; i++) all = arena_printf(&w.mem, "%s%s%g", all, i ? ", " : "", (double)value(i));
    *g = graph_parse(&w.module, &w.mem, arena_printf(&w.mem, "%.*s{%s}%s", (int)(at - text), text, all, at + 3));
    cr_assert(*g);
    return &(*g)->node.at[0];
}

static WeightMatrix matrix(int which)
{
    Graph *g;
    const Node *n = layer(which, &g);
    return weight_matrix(g, n, &w.mem);
}

Test(weights, a_convolution_is_a_matrix_of_taps_and_channels)
{
    WeightMatrix m = matrix(CONV);
    cr_assert(m.out == 6 && m.in == 24 && m.channels == 4 && m.batches == 1 && m.blocks == 2);
    for (int o = 0; o < 6; o++)
        for (int tap = 0; tap < 6; tap++)
            for (int c = 0; c < 4; c++) cr_expect(m.w[o * 24 + tap * 4 + c] == value((o * 4 + c) * 6 + tap));
}

Test(weights, a_product_is_transposed_and_its_batches_are_blocks)
{
    WeightMatrix m = matrix(BATCHES);
    cr_assert(m.out == 15 && m.in == 7 && m.channels == 7 && m.batches == 3 && m.blocks == 3);
    for (int b = 0; b < 3; b++)
        for (int o = 0; o < 5; o++)
            for (int k = 0; k < 7; k++) cr_expect(m.w[(b * 5 + o) * 7 + k] == value((b * 7 + k) * 5 + o));
    cr_expect(matrix(MATMUL).blocks == 1);
}

static Tensor *dequantized(const CodeTensors *t)
{
    Graph *g = graph_new(&w.module, &w.mem, "d");
    g->fold_edges = true;
    const OpDef *op = t->scale_code ? op_find("octet", "Dequantize") : op_find("", "DequantizeLinear");
    Attr *attr = op_attr_defaults(&w.mem, op);
    attr_set_int(op, attr, "axis", t->axis), attr_set_int(op, attr, "block_size", t->block);
    Val in[3] = {graph_const(g, t->code, NULL), graph_const(g, t->scale, NULL)};
    if (t->scale_code) {
        const OpDef *scale = op_find("", "DequantizeLinear");
        Attr *along = op_attr_defaults(&w.mem, scale);
        attr_set_int(scale, along, "axis", t->scale_axis);
        Val codes[] = {graph_const(g, t->scale_code, NULL), graph_const(g, t->scale_of, NULL)};
        in[1] = graph_emit(g, scale, along, codes, 2, 1, NULL, NULL);
    }
    if (t->zero) in[2] = graph_const(g, t->zero, NULL);
    const Tensor *y = graph_val(g, graph_emit(g, op, attr, in, t->zero ? 3 : 2, 1, NULL, NULL))->konst;
    cr_assert(y && !w.diag.errors);
    return (Tensor *)(uintptr_t)y;
}

/* Every form of every layer: the tensors mean what the codes mean, and rounding is at most half a step, one where symmetric codes end. */
Test(weights, tensors_mean_what_the_codes_mean)
{
    for (int l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < COUNT_OF(forms); i++) {
            const WeightForm *f = &forms[i];
            WeightMatrix m = matrix(l);
            WeightCodes c = weight_method_at(0)->find(&m, f, NULL, &w.mem);
            CodeTensors t = weight_tensors(&m, &c, &w.mem);
            cr_expect(tensor_equal(dequantized(&t), code_values(&t, &w.mem)), "layer %d, form %zu", l, i);
            cr_expect((t.zero != NULL) == (f->asymmetric || dtypes[f->code].cls == DC_UINT));
            float *means = NEW_ARRAY(&w.mem, float, m.in);
            for (int64_t r = 0; r < m.out; r++)
                for (int64_t j = 0; j < m.in; j++) {
                    int code = c.code[r * m.in + j];
                    if (!j) codes_row(&m, &c, r, means);
                    cr_assert_eq(means[j], codes_value(&c, r, j, m.in));
                    double step = fabs((double)c.scale[codes_at(&c, r, j)]), off = fabs((double)codes_value(&c, r, j, m.in) - m.w[r * m.in + j]);
                    if (dtype_is_float(f->code)) { /* three bits behind the first, or two */
                        cr_assert(off <= fabs(m.w[r * m.in + j]) / (f->code == DT_f8e5m2 ? 8 : 16) + step / 64, "%g", off);
                        continue;
                    }
                    cr_assert(code >= weight_code_least(f) && code <= weight_code_most(f));
                    cr_assert(off <= step * (f->asymmetric || f->code == DT_i8 ? 0.5001 : 1.0001), "layer %d, form %zu: %g, step %g", l, i, off, step);
                }
        }
}

static double square_error(const WeightMatrix *m, const WeightCodes *c)
{
    double sum = 0;
    for (int64_t r = 0; r < m->out; r++)
        for (int64_t j = 0; j < m->in; j++) {
            double e = (double)codes_value(c, r, j, m->in) - m->w[r * m->in + j];
            sum += e * e;
        }
    return sum;
}

Test(weights, clipping_never_has_the_larger_square_error)
{
    for (int l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < COUNT_OF(forms); i++) {
            WeightMatrix m = matrix(l);
            m.w[3] = 5; /* far out */
            WeightCodes rtn = weight_method_find("rtn")->find(&m, &forms[i], NULL, &w.mem), mse = weight_method_find("mse")->find(&m, &forms[i], NULL, &w.mem);
            cr_expect(square_error(&m, &mse) <= square_error(&m, &rtn), "layer %d, form %zu", l, i);
        }
}

/* Squares of what the errors of all taps make of values that are alike; the most that one code is off by, in steps: *apart. */
static double off_together(const WeightMatrix *m, const WeightCodes *c, double *apart)
{
    double all = 0;
    for (int64_t r = 0; r < m->out; r++)
        for (int64_t i = 0; i < m->channels; i++) {
            double sum = 0;
            for (int64_t j = i; j < m->in; j += m->channels) {
                double e = (double)codes_value(c, r, j, m->in) - m->w[r * m->in + j];
                sum += e, *apart = fmax(*apart, fabs(e) / c->scale[codes_at(c, r, j)]);
            }
            all += sum * sum;
        }
    return all;
}

Test(weights, errors_under_a_window_even_out)
{
    const WeightForm f = {.code = DT_i8};
    double apart = 0, half = 0;
    WeightMatrix m = matrix(CONV);
    for (int64_t i = 0; i < m.out * m.in; i++) m.w[i] += (float)((i * i * 31 + i * 17) % 97) / 4000; /* off the codes in odd ways */
    WeightCodes rtn = weight_method_find("rtn")->find(&m, &f, NULL, &w.mem), even = weight_method_find("even")->find(&m, &f, NULL, &w.mem);
    cr_expect_gt(off_together(&m, &rtn, &half), 4 * off_together(&m, &even, &apart));
    cr_expect(apart < 1.001 && half <= 0.5 + 1e-4, "%g", apart);
    m = matrix(MATMUL), rtn = weight_method_find("rtn")->find(&m, &f, NULL, &w.mem), even = weight_method_find("even")->find(&m, &f, NULL, &w.mem);
    cr_expect_arr_eq(rtn.code, even.code, sizeof *rtn.code * (size_t)(m.out * m.in), "no windows");
}

/* Of all grids that compete, what is chosen has the least error, as codes round. */
Test(weights, no_candidate_is_better_than_the_grid_that_is_chosen)
{
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        const WeightForm *f = &forms[i];
        WeightMatrix m = matrix(BATCHES);
        if (f->fine) continue; /* scales become codes afterwards */
        WeightCodes c = weight_method_find("mse")->find(&m, f, NULL, &w.mem);
        const Extremes *e = codes_extremes(&m, &c, &w.mem);
        double least[105], is[105] = {0};
        for (int step = 0; step < GRID_STEPS; step++) {
            double error[105] = {0};
            for (int64_t r = 0; r < m.out; r++)
                for (int64_t j = 0; j < m.in; j++) {
                    int64_t at = codes_at(&c, r, j);
                    Grid g = grid_candidate(f, e[at], step);
                    error[at] += pow((double)grid_value(f, g, grid_code(f, g, m.w[r * m.in + j])) - m.w[r * m.in + j], 2);
                    if (!step) is[at] += pow((double)codes_value(&c, r, j, m.in) - m.w[r * m.in + j], 2);
                }
            for (int64_t at = 0; at < c.owners * c.groups; at++) least[at] = step ? fmin(least[at], error[at]) : error[at];
        }
        for (int64_t at = 0; at < c.owners * c.groups; at++)
            cr_expect(is[at] <= least[at] * 1.0001 + 1e-12, "form %zu, group %ld: %g, not %g", i, (long)at, is[at], least[at]);
    }
}

/* Codes cover what is there: one group far larger than its neighbours does not coarsen them. */
Test(weights, groups_have_their_own_scales)
{
    WeightMatrix m = matrix(MATMUL);
    WeightForm f = {.code = DT_i4, .group = 3};
    m.w[0] = 100;
    WeightCodes c = weight_method_at(0)->find(&m, &f, NULL, &w.mem);
    cr_assert(c.groups == 3 && c.owners == 5 && c.group[2] == 0 && c.group[3] == 1 && c.group[6] == 2);
    cr_expect(fabsf(c.scale[0]) > 10 && fabsf(c.scale[1]) < 0.2f && fabsf(c.scale[3]) < 0.2f);
    CodeTensors t = weight_tensors(&m, &c, &w.mem);
    cr_expect(t.block == 3 && t.axis == 0 && t.scale->dim[0] == 3 && t.scale->dim[1] == 5);
}

Test(weights, nothing_but_zeros)
{
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        WeightMatrix m = matrix(MATMUL);
        memset(m.w, 0, sizeof *m.w * (size_t)(m.out * m.in));
        for (uint32_t k = 0; weight_method_at(k); k++) {
            WeightCodes c = weight_choose(weight_method_at(k), &m, &forms[i], NULL, &w.mem).codes;
            cr_expect(square_error(&m, &c) == 0 && c.scale[0] == 1, "%s, form %zu", weight_method_at(k)->name, i);
        }
    }
}

/* ---- inputs ---- */
/* Rows of inputs times the matrix are what the operator computes: every kind of layer, with padding and strides, by folding. */
static void rows_agree(const char *op_name, int nx, const int64_t *x_dim, int nw, const int64_t *w_dim, const char *attrs)
{
    static const int64_t pads[] = {1, 2, 0, 1}, strides[] = {2, 1}, dilations[] = {1, 2};
    Graph *g = graph_new(&w.module, &w.mem, "g");
    const OpDef *op = op_find("", op_name);
    Attr *attr = op_attr_defaults(&w.mem, op);
    if (*attrs) {
        attr_set_int(op, attr, "group", 2), attr_set_ints(op, attr, "pads", pads, 4);
        attr_set_ints(op, attr, "strides", strides, 2), attr_set_ints(op, attr, "dilations", dilations, 2);
    }
    const Tensor *x = tensor_random(&w.mem, DT_f32, nx, x_dim, 5), *wt = tensor_random(&w.mem, DT_f32, nw, w_dim, 6);
    Type free_type = type_of_tensor(&w.module, x);
    Val in[2] = {graph_input(g, "x", free_type), graph_const(g, wt, NULL)};
    graph_emit(g, op, attr, in, 2, 1, NULL, NULL);
    const Node *n = &g->node.at[0];
    WeightMatrix m = weight_matrix(g, n, &w.mem);
    InputRows r = input_rows(g, n, &m, x, &w.mem);
    in[0] = graph_const(g, x, NULL);
    const Tensor *y = graph_val(g, graph_emit(g, op, attr, in, 2, 1, NULL, NULL))->konst;
    cr_assert(y && r.rows * m.out == tensor_count(y), "%s: %ld rows of %ld", op_name, (long)r.rows, (long)m.out);
    float *row = NEW_ARRAY(&w.mem, float, m.in);
    int64_t out = m.out / m.blocks, plane = *attrs ? r.rows / x_dim[0] : 1;
    for (int64_t b = 0; b < m.blocks; b++)
        for (int64_t k = 0; k < r.rows; k++) {
            input_row(&r, b, k, row);
            for (int64_t o = 0; o < out; o++) {
                double sum = 0;
                for (int64_t j = 0; j < m.in; j++) sum += (double)row[j] * m.w[(b * out + o) * m.in + j];
                int64_t at = *attrs ? (k / plane * m.out + b * out + o) * plane + k % plane : (b * r.rows + k) * out + o;
                cr_assert_float_eq(sum, ((const float *)y->data)[at], 1e-3, "%s: block %ld, row %ld, output %ld", op_name, (long)b, (long)k, (long)o);
            }
        }
}

Test(weights, rows_of_inputs_times_the_matrix_are_the_layer)
{
    rows_agree("MatMul", 3, (int64_t[]){2, 3, 7}, 2, (int64_t[]){7, 5}, "");
    rows_agree("MatMul", 3, (int64_t[]){3, 4, 7}, 3, (int64_t[]){3, 7, 5}, "");
    rows_agree("Conv", 4, (int64_t[]){2, 8, 7, 9}, 4, (int64_t[]){6, 4, 3, 2}, "window");
    rows_agree("Conv", 4, (int64_t[]){2, 2, 7, 9}, 4, (int64_t[]){4, 1, 3, 2}, "window"); /* depthwise */
}

static double noise(uint32_t *seed)
{
    double sum = 0;
    for (int i = 0; i < 6; i++) sum += random_step(seed) / 16777216.0 - 0.5;
    return sum;
}

/* One product of made-up weights, [in][out]. */
static WeightMatrix product(int64_t in, int64_t out, uint32_t seed)
{
    Graph *g = graph_new(&w.module, &w.mem, "g");
    Tensor *t = tensor_new(&w.mem, DT_f32, 2, (int64_t[]){in, out});
    for (int64_t i = 0; i < in * out; i++) ((float *)(uintptr_t)t->data)[i] = (float)noise(&seed);
    Tensor *x = tensor_new(&w.mem, DT_f32, 2, (int64_t[]){1, in});
    emit(g, "MatMul", NULL, 2, graph_input(g, "x", type_of_tensor(&w.module, x)), graph_const(g, t, NULL));
    return weight_matrix(g, &g->node.at[0], &w.mem);
}

/* Rows in which a few directions are strong: what the errors of one column do, others can undo. */
static float *correlated(int64_t rows, int64_t in, int64_t directions, uint32_t seed)
{
    float *x = NEW_ARRAY(&w.mem, float, rows * in), *mix = NEW_ARRAY(&w.mem, float, directions * in), strength[64];
    for (int64_t i = 0; i < directions * in; i++) mix[i] = (float)noise(&seed);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t d = 0; d < directions; d++) strength[d] = (float)noise(&seed);
        for (int64_t j = 0; j < in; j++) {
            double v = 0.3 * noise(&seed);
            for (int64_t d = 0; d < directions; d++) v += (double)strength[d] * mix[d * in + j];
            x[r * in + j] = (float)v;
        }
    }
    return x;
}

static Moments *seen(const WeightMatrix *m, const float *x, int64_t rows, int64_t held)
{
    Moments *s = moments_new(m, &w.mem);
    moments_add_rows(s, x, rows, false);
    moments_add_rows(s, x + rows * m->in, held, true);
    return s;
}

Test(weights, second_moments_are_sums_of_products_of_rows_of_length_1)
{
    WeightMatrix m = product(11, 3, 1);
    float *x = correlated(300, 11, 3, 2);
    memset(x + 7 * 11, 0, sizeof *x * 11); /* it has no length */
    Moments *s = seen(&m, x, 290, 10);
    cr_assert(s->rows == 290 && s->held_rows == 10);
    for (int i = 0; i < 11; i++)
        for (int j = i; j < 11; j++) {
            double sum = 0;
            for (int r = 0; r < 290; r++) {
                double square = 0;
                for (int k = 0; k < 11; k++) square += (double)x[r * 11 + k] * x[r * 11 + k];
                if (square > 0) sum += (double)x[r * 11 + i] * x[r * 11 + j] / square;
            }
            cr_expect_float_eq(sum, s->second[i * s->ld + j], 1e-4 * (fabs(sum) + 1));
        }
    for (int j = 0; j < 11; j++) {
        double sum = 0;
        for (int r = 0; r < 290; r++) sum += (double)x[r * 11 + j];
        cr_expect_float_eq(sum, s->sum[j], 1e-4 * (fabs(sum) + 10), "means are those of the rows as they are");
    }
}

/* A few rows a thousand times as long as all others, as the first tokens of texts are, neither have the codes to themselves nor the verdict. */
Test(weights, a_long_row_counts_like_any_other)
{
    WeightForm form = {.code = DT_i4, .group = 32};
    WeightMatrix m = product(96, 24, 3);
    const WeightMethod *gptq = weight_method_find("gptq");
    float *x = correlated(1100, 96, 12, 4), *long_rows = correlated(1100, 96, 12, 4);
    for (int r = 0; r < 1100; r += 100)
        for (int j = 0; j < 96; j++) long_rows[r * 96 + j] *= 1000;
    Moments *even = seen(&m, x, 1000, 100), *uneven = seen(&m, long_rows, 1000, 100);
    WeightChoice a = weight_choose(gptq, &m, &form, even, &w.mem), b = weight_choose(gptq, &m, &form, uneven, &w.mem);
    cr_assert(!a.why && !b.why);
    cr_expect_float_eq(a.error, b.error, 0.01 * a.error, "%g, %g with long rows", a.error, b.error);
    cr_expect_float_eq(weight_error(&m, &b.codes, even), a.error, 0.01 * a.error, "%g and %g on rows as they were", a.error, weight_error(&m, &b.codes, even));
}

/* Groups have no middle: with both ends clipped apart, and grids that fit, errors are smaller than the best of equal shrinking. */
Test(weights, ends_are_clipped_apart)
{
    WeightForm f = {.code = DT_u4, .asymmetric = true, .fine = true, .group = 32};
    WeightMatrix m = product(256, 40, 5);
    WeightCodes c = weight_method_find("mse")->find(&m, &f, NULL, &w.mem);
    const Extremes *e = codes_extremes(&m, &c, &w.mem);
    double is = square_error(&m, &c), shrunk = 0;
    for (int64_t r = 0; r < m.out; r++)
        for (int64_t first = 0; first < m.in; first += 32) {
            double least = INFINITY;
            for (int step = 0; step < GRID_STEPS; step++) {
                double error = 0;
                Grid g = grid_candidate(&f, e[codes_at(&c, r, first)], step);
                for (int64_t at = r * m.in + first; at < r * m.in + first + 32; at++)
                    error += pow((double)grid_value(&f, g, grid_code(&f, g, m.w[at])) - m.w[at], 2);
                least = fmin(least, error);
            }
            shrunk += least;
        }
    cr_expect(is < 0.9 * shrunk, "%g, shrunk %g", is, shrunk);
}

/* GPTQ as the paper derives it, with the whole inverse of what is left of H before every column. */
static void invert(double *a, int n, double *out)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) out[i * n + j] = i == j;
    for (int i = 0; i < n; i++) {
        double pivot = a[i * n + i];
        for (int j = 0; j < n; j++) a[i * n + j] /= pivot, out[i * n + j] /= pivot;
        for (int k = 0; k < n; k++) {
            double by = a[k * n + i];
            for (int j = 0; k != i && j < n; j++) a[k * n + j] -= by * a[i * n + j], out[k * n + j] -= by * out[i * n + j];
        }
    }
}

/* cost: of each column, what its error costs after the later ones have made up for it. */
static void by_the_paper(const WeightMatrix *m, WeightCodes *c, const Moments *s, double *cost)
{
    enum { N = 9 };
    int order[N], n = (int)m->in;
    double h[N * N], mean = 0;
    for (int i = 0; i < n; i++) {
        order[i] = i, mean += (double)s->second[i * s->ld + i] / n;
        for (int k = i; k > 0 && s->second[order[k] * (s->ld + 1)] > s->second[order[k - 1] * (s->ld + 1)]; k--) {
            int t = order[k];
            order[k] = order[k - 1], order[k - 1] = t;
        }
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            int p = order[i], q = order[j];
            h[i * n + j] = (double)s->second[p < q ? p * s->ld + q : q * s->ld + p] + (i == j ? 0.01 * mean : 0);
        }
    for (int64_t r = 0; r < m->out; r++) {
        double x[N];
        for (int i = 0; i < n; i++) x[i] = (double)m->w[r * n + order[i]];
        for (int i = 0; i < n; i++) {
            int rest = n - i;
            double left[N * N], inverse[N * N];
            for (int p = 0; p < rest; p++)
                for (int q = 0; q < rest; q++) left[p * rest + q] = h[(i + p) * n + i + q];
            invert(left, rest, inverse);
            cost[order[i]] = 1 / inverse[0];
            int64_t at = codes_at(c, r, order[i]);
            int code = codes_nearest(c, at, (float)x[i]);
            double e = (x[i] - (double)(code - c->zero[at]) * c->scale[at]) / inverse[0];
            c->code[r * n + order[i]] = (int16_t)code;
            for (int j = 1; j < rest; j++) x[i + j] -= e * inverse[j];
        }
    }
}

Test(weights, gptq_is_what_the_paper_derives)
{
    WeightForm form[] = {{.code = DT_i4}, {.code = DT_u4, .asymmetric = true, .group = 4}};
    for (uint32_t seed = 1; seed <= 10; seed++)
        for (size_t i = 0; i < COUNT_OF(form); i++) {
            WeightMatrix m = product(9, 5, seed);
            Moments *s = seen(&m, correlated(120, 9, 2, seed), 100, 0); /* no rows to choose the damping by */
            WeightCodes c = weights_gptq(&m, &form[i], s, &w.mem), want = weights_gptq(&m, &form[i], s, &w.mem);
            double cost[9];
            by_the_paper(&m, &want, s, cost);
            const WeightCodes grids = codes_on_grids(&m, &form[i], cost, &w.mem);
            for (int64_t k = 0; k < c.owners * c.groups; k++) cr_expect_float_eq(c.scale[k], grids.scale[k], 1e-3 * fabs((double)c.scale[k]), "seed %u, scale %ld", seed, (long)k);
            for (int k = 0; k < 45; k++) cr_assert(c.code[k] == want.code[k], "seed %u, weight %d: %d, not %d", seed, k, c.code[k], want.code[k]);
        }
}

/* Scales that are codes themselves are among what a method chooses. */
static double shipped_apart(const WeightMatrix *m, const WeightCodes *c)
{
    double most = 0;
    CodeTensors t = weight_tensors(m, c, &w.mem);
    const float *shipped = dequantized(&t)->data;
    for (int64_t r = 0; r < m->out; r++)
        for (int64_t j = 0; j < m->in; j++)
            most = fmax(most, fabs((double)shipped[m->row[r] + m->col[j]] - codes_value(c, r, j, m->in)));
    return most;
}

/* Methods with statistics, on rows they have not seen, against rounding to nearest. */
static void beats_nearest(const char *method, double by)
{
    WeightForm form[] = {{.code = DT_i4}, {.code = DT_i4, .group = 32}, {.code = DT_u4, .asymmetric = true, .group = 48},
                         {.code = DT_u4, .asymmetric = true, .fine = true, .group = 32}, {.code = DT_u4, .fine = true, .group = 32}, {.code = DT_i8}};
    WeightMatrix m = product(200, 24, 3); /* columns that neither blocks, nor tiles, nor groups divide */
    Moments *s = seen(&m, correlated(1100, 200, 20, 4), 1000, 100);
    for (size_t i = 0; i < COUNT_OF(form); i++) {
        WeightChoice c = weight_choose(weight_method_find(method), &m, &form[i], s, &w.mem);
        cr_expect(!c.why && c.error < by * c.error_nearest, "%s, form %zu: %g, nearest %g", method, i, c.error, c.error_nearest);
        cr_expect_float_eq(c.error, weight_error(&m, &c.codes, s), 1e-12);
        cr_expect(shipped_apart(&m, &c.codes) < 1e-5, "%s, form %zu: what ships is something else", method, i);
    }
}

Test(weights, gptq_beats_rounding_to_nearest) { beats_nearest("gptq", 0.6); }
/* Rows that are much alike say more of each other than of those to come: rows held out ask for more damping. */
Test(weights, gptq_believes_few_rows_less)
{
    enum { IN = 96, APART = 40, SEEN = 160, HELD = 40, NEW = 400 };
    WeightForm form = {.code = DT_u4, .asymmetric = true, .group = 32};
    double error[2] = {0};
    for (uint32_t seed = 1; seed <= 5; seed++) {
        WeightMatrix m = product(IN, 64, seed);
        float *x = correlated(SEEN + HELD + NEW, IN, 60, seed);
        for (int64_t i = APART * IN; i < SEEN * IN; i++) x[i] = x[i % (APART * IN)];
        Moments *s = seen(&m, x, SEEN, HELD), *alone = seen(&m, x, SEEN, 0), *later = moments_new(&m, &w.mem);
        moments_add_rows(later, x + (SEEN + HELD) * IN, NEW, true);
        WeightCodes judged = weights_gptq(&m, &form, s, &w.mem), fixed = weights_gptq(&m, &form, alone, &w.mem);
        error[0] += weight_error(&m, &judged, later), error[1] += weight_error(&m, &fixed, later);
    }
    cr_expect(error[0] < 0.9 * error[1], "%g, with fixed damping %g", error[0] / 5, error[1] / 5);
}

/* Rows that nobody reads are no rows. */
Test(weights, rows_that_are_not_read_are_left_out)
{
    WeightMatrix m = product(5, 3, 1);
    Graph *g = graph_new(&w.module, &w.mem, "g");
    const Tensor *x = tensor_random(&w.mem, DT_f32, 3, (int64_t[]){2, 4, 5}, 3);
    Val y = emit(g, "MatMul", NULL, 2, graph_input(g, "x", type_of_tensor(&w.module, x)), graph_const(g, m.tensor, NULL));
    Tensor *read = tensor_new(&w.mem, DT_f32, 3, (int64_t[]){2, 1, 4}), *other = tensor_new(&w.mem, DT_f32, 1, (int64_t[]){7});
    static const int64_t left[] = {1, 2, 4, 7};
    float row[5];
    for (size_t i = 0; i < COUNT_OF(left); i++) ((float *)(uintptr_t)read->data)[left[i]] = i % 2 ? 1 : -1e-30f;
    InputRows all = input_rows(g, &g->node.at[graph_val(g, y)->def], &m, x, &w.mem), r = rows_read(all, read, &w.mem);
    cr_assert(all.rows == 8 && r.rows == COUNT_OF(left) && rows_read(all, other, &w.mem).rows == 8);
    for (size_t i = 0; i < COUNT_OF(left); i++) {
        input_row(&r, 0, (int64_t)i, row);
        cr_expect(!memcmp(row, (const float *)x->data + left[i] * 5, sizeof row), "row %zu", i);
    }
    InputRows last = rows_part(r, 2, true);
    input_row(&last, 0, 1, row);
    cr_expect(last.rows == 2 && !memcmp(row, (const float *)x->data + 7 * 5, sizeof row));
}

Test(weights, learned_rounding_beats_rounding_to_nearest) { beats_nearest("adaround", 0.6); }
Test(weights, the_search_by_outputs_beats_rounding_to_nearest) { beats_nearest("seqmse", 0.98); }

/* Learned rounding takes one of the two neighbours, whatever the form, and not always the nearest. */
Test(weights, learned_rounding_is_up_or_down)
{
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        bool fits = forms[i].group && forms[i].group <= 4; /* grids fit such small groups: few weights of many are left to move */
        WeightMatrix m = product(40, fits ? 48 : 12, 7);
        WeightCodes c = weight_method_find("adaround")->find(&m, &forms[i], seen(&m, correlated(120, 40, 8, 4), 100, 20), &w.mem);
        int other = 0;
        for (int64_t r = 0; r < m.out; r++)
            for (int64_t j = 0; j < m.in; j++) {
                int64_t at = codes_at(&c, r, j);
                float x = m.w[r * m.in + j], is = codes_value(&c, r, j, m.in);
                int nearest = codes_nearest(&c, at, x), code = c.code[r * m.in + j];
                float best = grid_value(&c.form, (Grid){c.scale[at], c.zero[at]}, nearest);
                other += code != nearest;
                if (!dtype_is_float(forms[i].code)) cr_assert(abs(code - nearest) <= 1, "form %zu: %d, nearest %d", i, code, nearest);
                if (code != nearest && fabsf(best) < fabsf(x)) cr_assert(fabsf(is) >= fabsf(x), "form %zu: %g and %g for %g", i, (double)is, (double)best, (double)x);
            }
        cr_expect(other > 20, "form %zu: %d of %ld are not the nearest", i, other, (long)(m.out * m.in));
    }
}

/* Channels that are large, and two layers that share them: gains make both better, and are what the codes are for. */
Test(weights, gains_make_large_channels_finer)
{
    WeightForm f[] = {{.code = DT_i4, .group = 32}, {.code = DT_i4, .group = 32}};
    WeightMatrix one = product(96, 40, 3), two = product(96, 17, 9);
    const WeightMatrix *m[] = {&one, &two};
    Arena *mem[] = {&w.mem, &w.mem};
    float *x = correlated(1100, 96, 8, 4), gain[96], most = 0, least = INFINITY;
    for (int r = 0; r < 1100; r++)
        for (int j = 0; j < 96; j += 11) x[r * 96 + j] *= 40;
    Moments *s = seen(&one, x, 1000, 100);
    WeightChoice c[2];
    weights_awq(m, f, 2, s, gain, c, mem);
    for (int j = 0; j < 96; j++) most = fmaxf(most, gain[j]), least = fminf(least, gain[j]);
    cr_expect(most > 2 * least && gain[11] > 2 * gain[12]);
    for (int i = 0; i < 2; i++) {
        for (int64_t k = 0; k < m[i]->out * 96; k++) m[i]->w[k] *= gain[k % 96];
        cr_expect(!c[i].why && c[i].error < 0.8 * c[i].error_nearest, "%g, nearest %g", c[i].error, c[i].error_nearest);
        cr_expect(c[i].sqnr > 15 && fabs(c[i].sqnr - weight_sqnr(m[i], &c[i].codes)) < 1e-3, "codes are those of the weights times the gains");
    }
    WeightMatrix same = product(96, 40, 3);
    m[0] = &same;
    weights_awq(m, f, 1, s, NULL, c, mem); /* somebody else reads the values: no gains */
    cr_expect(c[0].why || c[0].error < c[0].error_nearest);
    cr_expect_float_eq(c[0].error, weight_error(&same, &c[0].codes, s), 1e-6);
}

/* Of weights some of which are far out, channels that are large: grids that suit the outputs take the most of both. Those that suit the weights
 * alone, times the squares of their channels, are at 0.77. */
Test(weights, gains_end_on_grids_that_suit_the_outputs)
{
    WeightForm f = {.code = DT_i4, .group = 32};
    WeightMatrix one = product(96, 40, 3);
    const WeightMatrix *m[] = {&one};
    Arena *mem[] = {&w.mem};
    float *x = correlated(1100, 96, 8, 4), gain[96];
    for (int64_t k = 0; k < one.out * 96; k++) one.w[k] *= k % 5 ? 1 : 3;
    for (int r = 0; r < 1100; r++)
        for (int j = 0; j < 96; j += 3) x[r * 96 + j] *= 4;
    Moments *s = seen(&one, x, 1000, 100);
    WeightChoice c;
    weights_awq(m, &f, 1, s, gain, &c, mem);
    cr_expect(c.error < 0.65 * c.error_nearest, "%g, nearest %g", c.error, c.error_nearest);
    WeightCodes by_outputs = weights_seqmse(&one, &f, s, &w.mem);
    weights_awq(m, &f, 1, s, NULL, &c, mem);
    cr_expect(c.error <= weight_error(&one, &by_outputs, s), "without gains they compete as well");
}

Test(weights, windows_of_very_many_taps_are_rounded_to_nearest)
{
    const WeightForm f = {.code = DT_i8};
    WeightMatrix m = product(1200, 3, 5);
    for (int64_t channels = 4; channels <= 6; channels += 2) { /* 300 taps and 200 */
        m.channels = channels;
        WeightCodes rtn = weight_method_find("rtn")->find(&m, &f, NULL, &w.mem), even = weight_method_find("even")->find(&m, &f, NULL, &w.mem);
        bool same = !memcmp(rtn.code, even.code, sizeof *rtn.code * (size_t)(m.out * m.in));
        cr_expect(same == (channels == 4), "%d channels", (int)channels);
    }
}

/* Inputs that say little or nothing: constant rows, fewer rows than columns, columns that are always zero, no rows. */
Test(weights, poor_statistics_do_no_harm)
{
    for (uint32_t k = 0; weight_method_at(k); k++) {
        const WeightMethod *how = weight_method_at(k);
        WeightForm f = {.code = DT_i4, .group = 16};
        WeightMatrix m = product(70, 9, 5);
        if (!(how->needs & WEIGHT_MOMENTS)) continue;
        for (int kind = 0; kind < 4; kind++) {
            float *x = correlated(40, 70, 3, 6);
            for (int r = 0; r < 40; r++)
                for (int j = 0; j < 70; j++) {
                    if (kind == 0) x[r * 70 + j] = x[j];
                    if (kind == 1 && j % 3) x[r * 70 + j] = 0;
                    if (kind == 2) x[r * 70 + j] = 0;
                }
            Moments *s = seen(&m, x, 20, 20);
            WeightChoice c = weight_choose(how, &m, &f, s, &w.mem);
            WeightChoice nearest = weight_choose(weight_method_at(0), &m, &f, NULL, &w.mem);
            cr_expect(kind == 2 || weight_error(&m, &c.codes, s) <= weight_error(&m, &nearest.codes, s), "%s, kind %d", how->name, kind);
            cr_expect(isfinite(weight_sqnr(&m, &c.codes)));
        }
        WeightChoice none = weight_choose(how, &m, &f, moments_new(&m, &w.mem), &w.mem), large = weight_choose(how, &m, &f, NULL, &w.mem);
        cr_expect(none.why && strstr(none.why, "no calibration sample") && large.why && strstr(large.why, "too many"));
    }
}

/* What never came in calibration may come later: its weights are no worse than nearest ones by much. And what rounding takes from an output on
 * average is what those rows say, not the channel's mean: a tap that looks into padding multiplies nothing. */
Test(weights, inputs_that_calibration_has_not_seen)
{
    for (uint32_t k = 0; weight_method_at(k); k++) {
        const WeightMethod *how = weight_method_at(k);
        const WeightForm f = {.code = DT_i8};
        WeightMatrix m = product(70, 9, 5);
        if (!(how->needs & WEIGHT_MOMENTS)) continue;
        float *x = correlated(220, 70, 3, 6);
        for (int i = 0; i < 220 * 70; i++) x[i] = i % 70 < 40 ? x[i] + 1 : 0;
        Moments *s = seen(&m, x, 200, 20);
        WeightChoice c = weight_choose(how, &m, &f, s, &w.mem), nearest = weight_choose(weight_method_at(0), &m, &f, NULL, &w.mem);
        cr_expect(weight_sqnr(&m, &c.codes) > weight_sqnr(&m, &nearest.codes) - 12, "%s: %g dB", how->name, weight_sqnr(&m, &c.codes));
        cr_assert(c.lost);
        for (int64_t r = 0; r < m.out; r++) {
            double lost = 0;
            for (int i = 0; i < 200; i++)
                for (int64_t j = 0; j < 70; j++)
                    lost += (double)x[i * 70 + j] * ((double)m.w[r * 70 + j] - (double)codes_value(&c.codes, r, j, 70)) / 200;
            cr_expect_float_eq(c.lost[r], lost, 1e-4, "%s, row %ld", how->name, (long)r);
        }
    }
}

/* --weights' row in options.def says the names of the table, behind the default, which leaves the choice to the precision. */
Test(weights, the_option_names_the_methods)
{
    const OptionRow row = option_row("--weights");
    const char *all = "auto";
    for (uint32_t m = 0; weight_method_at(m); m++) all = arena_printf(&w.mem, "%s|%s", all, weight_method_at(m)->name);
    cr_expect_str_eq(row.value, all);
    cr_expect_str_eq(row.fallback, "auto");
}
