/* budget_report.c - what a search for a budget did: on the terminal, and as JSON. Schema: docs/CLI.md, "The report". */
#include "frontend/budget.h"
#include <math.h>
#include <stdlib.h>

enum { IN_THE_WAY = 5 };

typedef struct Way {
    const Layer *layer;
    double loss;
} Way;

static int by_loss(const void *a, const void *b)
{
    const Way *x = a, *y = b;
    if (x->loss != y->loss) return x->loss < y->loss ? 1 : -1;
    return (x->layer->loc->index > y->layer->loc->index) - (x->layer->loc->index < y->layer->loc->index);
}

static const char *layer_name(const Layer *l, Arena *mem)
{
    return *l->loc->node ? l->loc->node : arena_printf(mem, "#%d", l->loc->index);
}

/* The layers that stay float, those that lose most first. */
static void print_way(const Quantization *q, FILE *f)
{
    Arena mem = {0};
    const Budget *b = q->budget;
    Way *way = NEW_ARRAY(&mem, Way, q->layer.n + 1);
    uint32_t n = 0;
    for (uint32_t i = 0; i < q->layer.n; i++) {
        const BudgetRegion *r = &b->region[q->layer.at[i].region];
        if (q->layer.at[i].region && q->layer.at[i].region != q->tables && r->reverted) way[n++] = (Way){&q->layer.at[i], r->loss};
    }
    qsort(way, n, sizeof *way, by_loss);
    for (uint32_t i = 0; i < n && i < IN_THE_WAY; i++) {
        const BudgetRegion *r = &b->region[way[i].layer->region];
        fprintf(f, "    in the way: %s (%s): alone it loses %.2g%%", layer_name(way[i].layer, &mem),
                way[i].layer->loc->op, r->loss * 100);
        if (b->measured) fprintf(f, " and saves %.4f ms", r->saved * 1e3);
        fputc('\n', f);
    }
    if (n > IN_THE_WAY) fprintf(f, "    and %u more\n", n - IN_THE_WAY);
    if (q->tables && b->region[q->tables].reverted) fprintf(f, "    in the way: tables and weights of float products: alone they lose %.2g%%\n", b->region[q->tables].loss * 100);
    arena_drop(&mem);
}

/* Where there are several, what each of them lost. */
static void print_conditions(const Budget *b, FILE *f)
{
    for (uint32_t i = 0; b->conditions > 1 && i < b->conditions; i++) {
        const BudgetCondition *c = &b->condition[i];
        fprintf(f, "%s%s of '%s' %.3g%%", i ? ", " : "  ", c->metric, c->output, c->loss * 100);
        if (c->shown) fprintf(f, " (below %.3g%%)", c->bound * 100);
        if (c->every) fputs(" on all samples", f);
    }
    if (b->conditions > 1) fputc('\n', f);
}

void budget_print(const Quantization *q, const char *model, FILE *f)
{
    const Budget *b = q->budget;
    if (!b->regions) {
        fprintf(f, "%s: --max-loss: nothing is quantized\n", model);
        return;
    }
    if (b->command)
        fprintf(f, "%s: loss %.3g%% of at most %g%%: --metric-cmd says %g, of float %g", model, b->loss * 100,
                b->max_loss * 100, b->figure[1], b->figure[0]);
    else
        fprintf(f, "%s: loss %.3g%% of at most %g%% (%s%.3g%%), %s, on %u sample%s%s", model, b->loss * 100,
                b->max_loss * 100, b->shown ? "95% confidence: below " : "too few rows for a bound; taken as ",
                b->bound * 100, b->metric, b->samples[1], b->samples[1] == 1 ? "" : "s",
                b->samples[0] + b->samples[1] > 1 ? " that the search never saw" : "");
    fprintf(f, "\n  %u of %u regions went back to float; %.4f ms a run, float %.4f ms, everything quantized %.4f ms\n",
            b->reverted, b->regions, b->chosen * 1e3, b->plain * 1e3, b->all * 1e3);
    if (!(b->chosen < b->plain)) fputs("  this is no faster than float\n", f);
    if (!b->command) print_conditions(b, f);
    print_way(q, f);
}

static void number(cJSON *o, const char *key, double v)
{
    if (isfinite(v)) cJSON_AddNumberToObject(o, key, v);
    else cJSON_AddNullToObject(o, key);
}

static void ms(cJSON *o, const char *key, double seconds) { number(o, key, seconds * 1e3); }

static cJSON *point_json(const BudgetPoint *p)
{
    cJSON *o = cJSON_CreateObject();
    number(o, "quantized_regions", p->quantized), number(o, "loss", p->loss), number(o, "bound", p->bound);
    ms(o, "ms", p->seconds);
    cJSON_AddBoolToObject(o, "artefact", p->artefact), cJSON_AddBoolToObject(o, "chosen", p->chosen);
    return o;
}

static cJSON *condition_json(const BudgetCondition *c)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "metric", c->metric), cJSON_AddStringToObject(o, "output", c->output);
    number(o, "loss", c->loss), number(o, "bound", c->bound), number(o, "rows", (double)c->rows);
    cJSON_AddBoolToObject(o, "bound_is_shown", c->shown);
    return o;
}

static cJSON *region_json(const Quantization *q, uint32_t i)
{
    const BudgetRegion *r = &q->budget->region[i];
    cJSON *o = cJSON_CreateObject(), *layers = cJSON_AddArrayToObject(o, "outputs");
    for (uint32_t l = 0; l < q->layer.n; l++)
        if (q->layer.at[l].region == i) cJSON_AddItemToArray(layers, cJSON_CreateString(q->layer.at[l].tensor));
    cJSON_AddBoolToObject(o, "tables", i == q->tables);
    number(o, "loss_alone", r->loss), ms(o, "float_ms", r->plain), ms(o, "quantized_ms", r->quantized);
    cJSON_AddStringToObject(o, "precision", r->reverted ? "float" : "int8");
    return o;
}

cJSON *budget_json(const Quantization *q)
{
    const Budget *b = q->budget;
    cJSON *o = cJSON_CreateObject();
    number(o, "max_loss", b->max_loss);
    if (!b->regions) return o;
    cJSON_AddStringToObject(o, "metric", b->metric);
    number(o, "loss", b->loss), number(o, "bound", b->bound), cJSON_AddBoolToObject(o, "bound_is_shown", b->shown);
    if (b->command) {
        cJSON_AddStringToObject(o, "command", b->command);
        number(o, "float_figure", b->figure[0]), number(o, "figure", b->figure[1]);
    }
    number(o, "search_samples", b->samples[0]), number(o, "judging_samples", b->samples[1]),
        number(o, "looks", b->looks);
    cJSON_AddStringToObject(o, "times", b->measured ? "measured" : "estimate");
    ms(o, "float_ms", b->plain), ms(o, "quantized_ms", b->all), ms(o, "ms", b->chosen);
    cJSON *conditions = cJSON_AddArrayToObject(o, "conditions"), *points = cJSON_AddArrayToObject(o, "tried"), *regions = cJSON_AddArrayToObject(o, "regions");
    for (uint32_t i = 0; i < b->conditions; i++) cJSON_AddItemToArray(conditions, condition_json(&b->condition[i]));
    for (uint32_t i = 0; i < b->point.n; i++) cJSON_AddItemToArray(points, point_json(&b->point.at[i]));
    for (uint32_t i = 1; i <= b->regions; i++) cJSON_AddItemToArray(regions, region_json(q, i));
    return o;
}
