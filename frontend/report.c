/* report.c - the quantization report; fields are those of Layer (passes/quantize.h). Schema: docs/CLI.md, "The report". */
#include "frontend/report.h"
#include "frontend/budget.h"
#include "frontend/file.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>

static int by_position(const void *a, const void *b)
{
    const Layer *x = *(const Layer *const *)a, *y = *(const Layer *const *)b;
    return (x->loc->index > y->loc->index) - (x->loc->index < y->loc->index);
}

static const Layer **in_order(const Quantization *q, Arena *mem)
{
    uint32_t n = q ? q->layer.n : 0;
    const Layer **l = NEW_ARRAY(mem, const Layer *, n + 1);
    for (uint32_t i = 0; i < n; i++) l[i] = &q->layer.at[i];
    qsort(l, n, sizeof *l, by_position);
    return l;
}

static const char *layer_name(const Layer *l, Arena *mem)
{
    return *l->loc->node ? l->loc->node : arena_printf(mem, "#%d", l->loc->index);
}

/* What the numbers of a policy were measured on. */
static const char *measured_on(const Policy *p, Arena *mem)
{
    if (p->difference.made_up) return "RANDOM INPUTS, not samples (--calibrate)";
    return arena_printf(mem, "%u sample%s", p->difference.runs, p->difference.runs == 1 ? "" : "s");
}

static void policy_print(const ReportHead *h, FILE *f)
{
    Arena mem = {0};
    const Policy *p = h->policy;
    if (p->why) fprintf(f, "%s: --fp32 is exact: %s\n", h->model, p->why);
    if (policy_changes(p)) {
        fprintf(f, "%s: %s %s", h->model, p->storage ? "values are stored as" : "float products are",
                p->storage ? p->storage : p->fp32);
        if (p->measured)
            fprintf(f, "; outputs differ from float32 by %.2g, at most %.2g of the largest, on %s",
                    p->difference.relative, p->difference.largest, measured_on(p, &mem));
        else fputs("; what that costs could not be measured on random inputs (--calibrate)", f);
        fputc('\n', f);
    }
    arena_drop(&mem);
}

void report_print(const Quantization *q, const ReportHead *h, FILE *f)
{
    Arena mem = {0};
    policy_print(h, f);
    const WinogradNote *w = h->winograd;
    if (w->convs)
        fprintf(f, "%s: %u of %u float convolutions by Winograd's algorithm, error of a sampled tile at most %.1e\n",
                h->model, w->convs, w->of, w->error);
    if (!q) return;
    const Layer **layer = in_order(q, &mem);
    uint32_t integer = 0;
    for (uint32_t i = 0; i < q->layer.n; i++) integer += layer[i]->state == LAYER_INTEGER;
    fprintf(f, "%s: %u of %u contractions are int8 (%s%s)\n", h->model, integer, q->layer.n, h->method,
            h->random ? ", RANDOM DATA" : "");
    for (uint32_t i = 0; i < q->layer.n; i++)
        if (layer[i]->state == LAYER_FLOAT)
            fprintf(f, "  float: %s (%s): %s\n", layer_name(layer[i], &mem), layer[i]->loc->op, layer[i]->why);
    double worst = INFINITY;
    const Layer *at = NULL;
    for (uint32_t i = 0; i < q->layer.n; i++)
        if (isfinite(layer[i]->sqnr) && layer[i]->sqnr < worst) worst = layer[i]->sqnr, at = layer[i];
    if (at) fprintf(f, "  lowest SQNR against float: %.1f dB at %s (%s)\n", worst, layer_name(at, &mem), at->loc->op);
    arena_drop(&mem);
}

static void number(cJSON *o, const char *key, double v)
{
    if (isfinite(v)) cJSON_AddNumberToObject(o, key, v);
    else cJSON_AddNullToObject(o, key);
}

static cJSON *layer_json(const Layer *l, Arena *mem)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "node", layer_name(l, mem));
    cJSON_AddStringToObject(o, "operator", l->loc->op);
    cJSON_AddStringToObject(o, "output", l->tensor);
    cJSON_AddStringToObject(o, "precision", l->state == LAYER_INTEGER ? "int8" : "float");
    if (l->state == LAYER_FLOAT) return cJSON_AddStringToObject(o, "why", l->why), o;
    cJSON *a = cJSON_AddObjectToObject(o, "activation"), *w = cJSON_AddObjectToObject(o, "weights");
    cJSON_AddStringToObject(a, "type", "u8"), cJSON_AddStringToObject(a, "granularity", l->rows ? "per row" : "per tensor");
    number(a, "lowest", l->lo), number(a, "highest", l->hi);
    if (!l->rows) number(a, "scale", l->scale), number(a, "zero_point", l->zero_point);
    cJSON_AddStringToObject(w, "type", "s8"), cJSON_AddStringToObject(w, "granularity", "per channel");
    cJSON_AddStringToObject(w, "method", l->method);
    if (l->fallback) cJSON_AddStringToObject(w, "fallback", l->fallback);
    if (isfinite(l->error)) number(w, "error_nearest", l->error_nearest), number(w, "error", l->error);
    number(w, "elements", (double)l->weights), number(w, "sqnr_db", l->weight_sqnr);
    number(o, "sqnr_db", l->sqnr);
    return o;
}

static void policy_json(cJSON *root, const Policy *p)
{
    cJSON_AddStringToObject(root, "fp32", p->fp32);
    if (p->why) cJSON_AddStringToObject(root, "fp32_why", p->why);
    if (!policy_changes(p)) return;
    cJSON *e = cJSON_AddObjectToObject(root, "error");
    number(e, "relative", p->measured ? p->difference.relative : (double)NAN);
    number(e, "largest", p->measured ? p->difference.largest : (double)NAN);
    cJSON_AddStringToObject(e, "inputs", p->difference.made_up ? "random" : "samples");
    number(e, "runs", p->difference.runs);
}

bool report_write(const Quantization *q, const ReportHead *h, Diag *diag, const char *path)
{
    Arena mem = {0};
    const Layer **layer = in_order(q, &mem);
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "model", h->model);
    if (q || h->policy->storage) cJSON_AddStringToObject(root, "quantize", q ? "int8" : h->policy->storage);
    if (q) cJSON_AddStringToObject(root, "method", h->method);
    policy_json(root, h->policy);
    if (h->samples) cJSON_AddStringToObject(root, "samples", h->samples);
    if (q || h->samples)
        cJSON_AddStringToObject(root, "calibration", h->random ? "random" : h->samples ? "samples" : "ranges");
    number(root, "model_bytes", (double)h->model_bytes), number(root, "artefact_bytes", (double)h->artefact_bytes);
    if (h->winograd->convs) {
        cJSON *w = cJSON_AddObjectToObject(root, "winograd");
        number(w, "convolutions", h->winograd->convs), number(w, "of", h->winograd->of);
        number(w, "sampled_error", h->winograd->error);
    }
    if (q && q->budget) cJSON_AddItemToObject(root, "budget", budget_json(q));
    cJSON *list = cJSON_AddArrayToObject(root, "layers");
    for (uint32_t i = 0; q && i < q->layer.n; i++) cJSON_AddItemToArray(list, layer_json(layer[i], &mem));
    char *text = cJSON_Print(root);
    const char *temporary;
    FILE *f = file_create(&mem, diag, path, &temporary);
    bool ok = f && file_commit(diag, f, temporary, path, fputs(text, f) >= 0 && fputc('\n', f) >= 0);
    free(text), cJSON_Delete(root);
    arena_drop(&mem);
    return ok;
}
