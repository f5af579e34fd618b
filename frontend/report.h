/* report.h - what quantization did, layer by layer, and what a precision policy costs: a summary for the terminal and a JSON file for tools. */
#ifndef OCTET_REPORT_H
#define OCTET_REPORT_H
#include "frontend/policy.h"
#include "passes/quantize.h"
#include "passes/winograd.h"

typedef struct ReportHead {
    const char *model, *method, *samples; /* as given on the command line; samples NULL: ranges came from a file */
    bool random;                          /* the samples are random numbers */
    uint64_t model_bytes, artefact_bytes;
    const Policy *policy;
    const WinogradNote *winograd;
} ReportHead;
/* q NULL: nothing became integers */
void report_print(const Quantization *q, const ReportHead *h, FILE *f);
bool report_write(const Quantization *q, const ReportHead *h, Diag *diag, const char *path); /* JSON, atomically */
#endif
