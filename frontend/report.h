/* report.h - what quantization or a precision policy did, and what it cost and gained. One struct is filled once; the summary for the
 * terminal, the JSON file and the page are written from it. Everything in it but times is the same for the same input and flags. */
#ifndef OCTET_REPORT_H
#define OCTET_REPORT_H
#include "frontend/measure.h"
#include "frontend/policy.h"
#include "passes/integer.h"
#include "passes/winograd.h"

typedef enum ReportCalibration { CALIBRATION_NONE, CALIBRATION_SAMPLES, CALIBRATION_RANGES, CALIBRATION_RANDOM } ReportCalibration;
extern const char *const report_calibrations[];

typedef struct ReportLayer {
    const Layer *layer;
    const char *name;            /* of its node, or "#7" */
    bool integer;
    const Range *range;          /* of its activations, with what calibration saw; NULL: not known */
    double alone;                /* SQNR in dB of its output with only this layer quantized; NaN: not known */
    double clipped;              /* part of the values seen that lie outside of the range; NaN: not known */
    double bytes_float, bytes;   /* of its weights; NaN: not known */
    double plain, made;          /* seconds of a run in the float program and in this one; NaN: not known */
} ReportLayer;

typedef struct ReportPoint {     /* of accuracy against latency */
    const char *name;            /* NULL: none is shown */
    double seconds, error;
} ReportPoint;
typedef struct ReportPoints { VEC(ReportPoint) at; } ReportPoints;

typedef struct Report {
    const char *model, *version, *target, *flags; /* flags: as given, those that change what is made */
    const char *precision;       /* "int8", "bf16", "fp16"; NULL: float32 is stored */
    const char *nearer;          /* what comes nearer to float than that, or NULL */
    const char *method, *samples; /* method NULL: no ranges were needed; samples NULL: none */
    ReportCalibration calibration;
    uint64_t model_bytes, artefact_bytes;
    double compile_seconds;
    const Policy *policy;
    const WinogradNote *winograd;
    const IntegerNote *integer;
    const Measured *measured;    /* NULL: nothing was measured */
    const double *alone;         /* per layer of the quantization, or NULL: not measured */
    const OutputCosts *costs;    /* of the layers' bits, or NULL: not measured */
    const Quantization *budget;  /* with --max-loss: what was searched; else NULL */
    bool quantized;              /* contractions became integers, or could have */
    bool came;                   /* the layers are those of a model that came quantized */
    uint32_t layers, integers;
    uint32_t beside;             /* layers that have codes as weights alone, beside integer ones */
    bool rounds_values;          /* costs are of values, not of weights */
    ReportLayer *layer;          /* the contractions in the model's order */
    const ReportLayer *worst;    /* of lowest SQNR, or NULL */
    const char *advice;          /* outputs are far from float: what to do; else NULL */
    ReportPoints point;          /* the float program and this one; error: of the worst output, Euclidean norms */
    ReportPoints tried;          /* with --max-loss: what was tried; error: the metric's loss */
} Report;

/* What the caller knows: everything above from `model` to `measured`. Fills the rest from q (NULL: nothing was asked to be quantized; then the
 * layers are those with an operand that came as codes). */
void report_fill(Report *r, const Quantization *q, Arena *mem);
const char *report_weight_type(const Layer *l); /* of its codes */
const char *report_cost_unit(const OutputCosts *c);
extern const char *const report_rewritings[REWRITINGS];
double report_error(const Measured *m);                             /* of the worst output, Euclidean norms; NaN: no float output */

void report_print(const Report *r, FILE *f);                        /* report_text.c: the summary */
void report_json(const Report *r, FILE *f);                         /* report_json.c */
void report_html(const Report *r, FILE *f);                         /* report_html.c: one page that needs nothing else */
bool report_write(const Report *r, Diag *diag, const char *path);   /* .html or .json by the suffix, atomically; false: reported */
bool report_is_page(const char *path);
const char *report_measured_on(const Policy *p, Arena *mem);        /* what the numbers of a policy were measured on */

/* report_svg.c: inline SVG in the page's colours */
void svg_histogram(const ReportLayer *l, FILE *f);
void svg_points(const ReportPoints *p, const char *error, FILE *f); /* error: what is lost, for the axis */
void put_text(const char *s, FILE *f);                              /* escaped for HTML, whatever bytes it has */
#endif
