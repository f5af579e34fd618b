/* report_json.c - the report for tools: one object, its fields are listed in docs/CLI.md, "The report". Numbers that are not known are null. */
#include "frontend/budget.h"
#include "frontend/report.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>

static void number(cJSON *o, const char *key, double v)
{
    if (isfinite(v)) cJSON_AddNumberToObject(o, key, v);
    else cJSON_AddNullToObject(o, key);
}

static void text(cJSON *o, const char *key, const char *s) /* left out when there is none */
{
    if (s) cJSON_AddStringToObject(o, key, s);
}

static void activation_json(cJSON *a, const ReportLayer *r)
{
    const Layer *l = r->layer;
    DType came = l->wide ? DT_i16 : l->x;
    text(a, "type", came ? dtypes[came].name : "u8"), text(a, "granularity", l->rows ? "per row" : "per tensor");
    if (l->x) return;
    text(a, "scheme", l->rows && !l->states ? "symmetric" : "asymmetric");
    if (!l->states) number(a, "lowest", l->lo), number(a, "highest", l->hi);
    cJSON_AddBoolToObject(a, "smooth", l->smooth);
    if (l->eight_db > 0) number(a, "eight_bits_db", l->eight_db);
    if (!l->rows) number(a, "scale", l->scale), number(a, "zero_point", l->zero_point);
    if (r->range && r->range->stat) {
        number(a, "seen_lowest", r->range->stat->lo), number(a, "seen_highest", r->range->stat->hi);
        number(a, "clipped_percent", 100 * r->clipped);
    }
}

static void rewritings_json(cJSON *layer, const LayerTried *t)
{
    cJSON *all = NULL;
    for (int k = 0; t && k < REWRITINGS; k++) {
        const LayerRewriting *l = &t->by[k];
        if (!l->judged) continue;
        if (!all) all = cJSON_AddArrayToObject(layer, "rewritings");
        cJSON *o = cJSON_CreateObject();
        text(o, "technique", report_rewritings[k]), cJSON_AddBoolToObject(o, "taken", l->taken);
        number(o, "before_db", l->before), number(o, "after_db", l->after);
        cJSON_AddItemToArray(all, o);
    }
}

static cJSON *layer_json(const ReportLayer *r, const Report *report)
{
    const Layer *l = r->layer;
    cJSON *o = cJSON_CreateObject();
    text(o, "node", r->name), text(o, "operator", l->loc->op), text(o, "input", l->input), text(o, "output", l->tensor);
    static const char *const states[] = {[LAYER_INTEGER] = "int8", [LAYER_WEIGHTS] = "weights", [LAYER_FLOAT] = "float"};
    text(o, "precision", l->state == LAYER_INTEGER && dtypes[l->x].bits == 16 ? "int16" : states[l->state]);
    if (report->measured) number(o, "ms_float", r->plain * 1e3), number(o, "ms", r->made * 1e3);
    if (l->state == LAYER_FLOAT) return text(o, "why", l->why), o;
    if (l->state == LAYER_INTEGER) activation_json(cJSON_AddObjectToObject(o, "activation"), r);
    char granularity[40];
    if (l->block) {
        cJSON *a = cJSON_AddObjectToObject(o, "activation");
        snprintf(granularity, sizeof granularity, "groups of %lld", (long long)l->block);
        text(a, "type", "int8"), text(a, "granularity", granularity), text(a, "scheme", "symmetric");
    }
    cJSON *w = cJSON_AddObjectToObject(o, "weights");
    snprintf(granularity, sizeof granularity, "groups of %lld", (long long)l->form.group);
    text(w, "type", report_weight_type(l));
    if (report->came) return number(w, "elements", (double)l->weights), number(w, "bytes", r->bytes), o;
    text(w, "granularity", l->form.group ? granularity : "per channel");
    text(w, "scheme", l->form.asymmetric ? "asymmetric" : "symmetric");
    text(w, "method", l->method);
    number(w, "elements", (double)l->weights), number(w, "bytes_float", r->bytes_float), number(w, "bytes", r->bytes);
    number(w, "sqnr_db", l->weight_sqnr);
    text(w, "fallback", l->fallback);
    if (isfinite(l->error)) number(w, "error_nearest", l->error_nearest), number(w, "error", l->error);
    number(o, "sqnr_db", l->sqnr), number(o, "sqnr_db_alone", r->alone);
    if (isfinite(l->cost)) number(o, "cost", l->cost), cJSON_AddBoolToObject(o, "spared", l->spared);
    rewritings_json(o, l->tried);
    return o;
}

static void policy_json(cJSON *root, const Policy *p)
{
    text(root, "fp32", p->fp32), text(root, "fp32_why", p->why);
    if (!policy_changes(p)) return;
    cJSON *e = cJSON_AddObjectToObject(root, "error");
    number(e, "relative", p->measured ? p->difference.relative : (double)NAN);
    number(e, "largest", p->measured ? p->difference.largest : (double)NAN);
    text(e, "inputs", p->difference.made_up ? "random" : "samples");
    number(e, "runs", p->difference.runs);
}

static cJSON *output_json(const OutputFigures *f)
{
    cJSON *o = cJSON_CreateObject();
    text(o, "name", f->name);
    number(o, "samples", f->samples);
    if (f->unequal) number(o, "other_sizes", f->unequal);
    if (f->is_float) {
        number(o, "sqnr_db", f->sqnr), number(o, "sqnr_db_lowest", f->worst), number(o, "lowest_sample", f->worst_at);
        number(o, "cosine", f->cosine), number(o, "cosine_half_interval", f->cosine_half);
    }
    if (f->is_float && !f->scores) return o;
    cJSON *a = cJSON_AddObjectToObject(o, f->is_float ? "top1" : "equal");
    number(a, "rows", (double)f->rows), number(a, "agree", (double)f->agree);
    number(a, "lowest_95", f->low), number(a, "highest_95", f->high);
    return o;
}

static cJSON *program_json(const ProgramFigures *p, const char *kind)
{
    cJSON *o = cJSON_CreateObject();
    text(o, "program", kind);
    number(o, "median_ms", p->median * 1e3), number(o, "least_ms", p->least * 1e3), number(o, "runs", p->runs);
    number(o, "memory_bytes", (double)p->memory);
    return o;
}

static void measured_json(cJSON *root, const Measured *m)
{
    cJSON *outputs = cJSON_AddArrayToObject(root, "outputs"), *run = cJSON_AddObjectToObject(root, "run");
    for (uint32_t i = 0; i < m->outputs; i++) cJSON_AddItemToArray(outputs, output_json(&m->output[i]));
    text(run, "level", m->level), number(run, "threads", m->threads);
    cJSON_AddItemToObject(run, "float", program_json(&m->program[0], "built for this machine"));
    cJSON_AddItemToObject(run, "made",
                          program_json(&m->program[1], m->artefact ? "the artefact" : "built for this machine"));
}

void report_json(const Report *r, FILE *f)
{
    cJSON *root = cJSON_CreateObject();
    text(root, "model", r->model), text(root, "octet", r->version), text(root, "flags", r->flags),
        text(root, "target", r->target);
    text(root, "quantize", r->precision), text(root, "method", r->method);
    policy_json(root, r->policy);
    text(root, "samples", r->samples), text(root, "calibration", report_calibrations[r->calibration]);
    number(root, "model_bytes", (double)r->model_bytes), number(root, "artefact_bytes", (double)r->artefact_bytes);
    number(root, "compile_seconds", r->compile_seconds);
    if (r->winograd->convs) {
        cJSON *w = cJSON_AddObjectToObject(root, "winograd");
        number(w, "convolutions", r->winograd->convs), number(w, "of", r->winograd->of);
        number(w, "sampled_error", r->winograd->error);
    }
    cJSON *unfused = r->integer->n[CODED_FLOAT] ? cJSON_AddArrayToObject(root, "unfused") : NULL;
    for (uint32_t i = 0; i < r->integer->at.n; i++) {
        const Coded *u = &r->integer->at.at[i];
        if (u->state != CODED_FLOAT) continue;
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "node", u->name), cJSON_AddStringToObject(o, "operator", u->loc->op);
        cJSON_AddStringToObject(o, "why", u->why);
        cJSON_AddItemToArray(unfused, o);
    }
    if (r->measured) measured_json(root, r->measured);
    text(root, "advice", r->advice);
    if (r->costs) {
        cJSON *c = cJSON_AddObjectToObject(root, "costs");
        text(c, "of", r->rounds_values ? "values" : "weights"), text(c, "unit", report_cost_unit(r->costs));
        number(c, "left", r->costs->left), number(c, "bound", r->costs->bound);
    }
    if (r->budget) cJSON_AddItemToObject(root, "budget", budget_json(r->budget));
    cJSON *list = cJSON_AddArrayToObject(root, "layers");
    for (uint32_t i = 0; i < r->layers; i++) cJSON_AddItemToArray(list, layer_json(&r->layer[i], r));
    char *out = cJSON_Print(root);
    fputs(out, f), fputc('\n', f);
    free(out), cJSON_Delete(root);
}
