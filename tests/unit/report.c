/* The report: what the summary says of layers that stay float, and of outputs that are far from float. */
#include "frontend/report.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static Layer layer_of(Arena *mem, const char *op, const char *node, const char *tensor, const char *why)
{
    Loc *l = NEW(mem, Loc);
    l->op = op, l->node = node;
    Layer y = {.loc = l, .tensor = tensor, .state = why ? LAYER_FLOAT : LAYER_INTEGER, .why = why};
    y.weight_sqnr = y.cost = y.sqnr = y.error = y.error_nearest = NAN;
    return y;
}

static const char *summary(Arena *mem, Report *r, const Quantization *q)
{
    static const Policy exact = {.fp32 = "exact"};
    static const WinogradNote none;
    static const IntegerNote nothing;
    r->model = "m.onnx", r->precision = "int8", r->policy = &exact, r->winograd = &none, r->integer = &nothing;
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    report_fill(r, q, mem), report_print(r, f);
    fclose(f);
    const char *kept = arena_printf(mem, "%s", text);
    free(text);
    return kept;
}

Test(report, a_reason_for_all_that_stay_float)
{
    static const char *const tensor[] = {"a", "b", "c", "d", "e", "f", "g"};
    Arena mem = {0};
    Quantization q = {.mem = &mem, .precision = "int8"};
    for (size_t i = 0; i < COUNT_OF(tensor); i++) {
        const char *why = i == 1 ? NULL : i == 3 ? "--keep" : "both operands are computed at run time";
        vec_push(&mem, &q.layer, layer_of(&mem, i == 3 ? "Conv" : "MatMul", tensor[i], tensor[i], why));
    }
    Report r = {0};
    cr_expect_str_eq(summary(&mem, &r, &q),
                     "m.onnx: 1 of 7 contractions are int8\n"
                     "  float: a (MatMul), c (MatMul), e (MatMul), f (MatMul) and 1 more: both operands are computed at run time\n"
                     "  float: d (Conv): --keep\n");
    arena_drop(&mem);
}

static const char *advice_for(OutputFigures far, ReportCalibration calibration, const char *nearer)
{
    Arena mem = {0};
    Quantization q = {.mem = &mem, .precision = "int8"};
    OutputFigures o[] = {{.name = "near", .is_float = true, .samples = 1, .sqnr = 30, .scores = true, .rows = 4, .agree = 4, .low = 0.4, .high = 1}, far};
    Measured m = {.output = o, .outputs = 2};
    Report r = {.measured = &m, .calibration = calibration, .nearer = nearer};
    static char said[99];
    (void)summary(&mem, &r, &q);
    snprintf(said, sizeof said, "%s", r.advice ? r.advice : "");
    arena_drop(&mem);
    return said;
}

Test(report, outputs_far_from_float)
{
    OutputFigures noisy = {.name = "y", .is_float = true, .samples = 4, .sqnr = 9.9};
    OutputFigures other = {.name = "z", .is_float = true, .samples = 4, .sqnr = 20, .scores = true, .rows = 100, .agree = 80, .low = 0.7, .high = 0.89};
    OutputFigures few = other, equal = noisy, broken = noisy;
    few.high = 0.9, equal.sqnr = INFINITY, broken.sqnr = -INFINITY;
    cr_expect_str_eq(advice_for(noisy, CALIBRATION_SAMPLES, "--this is"), "output y is far from float: --this is");
    cr_expect_str_eq(advice_for(broken, CALIBRATION_SAMPLES, NULL), "output y is far from float");
    cr_expect_str_eq(advice_for(other, CALIBRATION_SAMPLES, NULL), "output z is far from float");
    cr_expect_str_eq(advice_for(few, CALIBRATION_SAMPLES, NULL), "", "too few rows to tell");
    cr_expect_str_eq(advice_for(equal, CALIBRATION_SAMPLES, NULL), "");
    cr_expect_str_eq(advice_for(noisy, CALIBRATION_RANDOM, NULL), "", "of random numbers nothing follows");
}
