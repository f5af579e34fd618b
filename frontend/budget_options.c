/* budget_options.c - the options of --max-loss, checked before anything is compiled. */
#include "frontend/budget.h"
#include "frontend/policy.h"
#include "frontend/precision.h"
#include <math.h>
#include <stdlib.h>

static bool read_percent(const char *text, double *part)
{
    char *end;
    double v = strtod(text, &end);
    *part = v / 100;
    return end != text && !strcmp(end, "%") && v > 0 && v < 100;
}

static const char *metric_names(Arena *mem)
{
    const char *s = "";
    for (uint32_t i = 0; metric_at(i); i++) s = arena_printf(mem, "%s%s%s", s, i ? ", " : "", metric_at(i)->name);
    return s;
}

/* A target whose instructions this machine has is what is measured; else the best level of this machine. */
static const char *runs_here(const char *target)
{
    const Target *t = target ? target_find(target) : NULL;
    return t && !t->gpu && !(t->needs & ~target_host_features()) && strcmp(t->name, "portable") != 0 ? t->name : NULL;
}

static bool lacks_target(const char *target)
{
    const Target *t = target ? target_find(target) : NULL;
    return t && !runs_here(target) && strcmp(t->name, "portable") != 0;
}

static bool check_labels(const BudgetOptions *b, Diag *d)
{
    int k;
    const Metric *m = b->metric ? metric_find(b->metric, &k) : NULL;
    return !b->labels || (m && m->labels) || diag_error(d, NULL, "--labels needs --metric top1 or topK");
}

bool budget_options(BudgetOptions *b, const Options *o, Diag *d)
{
    static const struct {
        OptionId id;
        const char *name;
    } belong[] = {{OPT_metric, "--metric"}, {OPT_metric_cmd, "--metric-cmd"}, {OPT_labels, "--labels"}};
    const char *loss = o->value[OPT_max_loss], *target = o->value[OPT_target];
    int k;
    *b = (BudgetOptions){.metric = o->value[OPT_metric],
                         .command = o->value[OPT_metric_cmd],
                         .labels = o->value[OPT_labels],
                         .target = runs_here(target),
                         .estimate = option_is(o, OPT_budget_times, "estimate") || lacks_target(target)};
    for (size_t i = 0; i < COUNT_OF(belong); i++)
        if (!loss && o->value[belong[i].id]) return diag_error(d, NULL, "%s needs --max-loss", belong[i].name);
    if (!loss && option_is(o, OPT_budget_times, "estimate"))
        return diag_error(d, NULL, "--budget-times needs --max-loss");
    if (!loss) return true;
    if (!read_percent(loss, &b->max_loss))
        return diag_error(d, NULL, "--max-loss %s: expected a percentage above 0%% and below 100%%, as in 0.5%%", loss);
    if (!(precision_of(o) && precision_of(o)->integer) || !(o->value[OPT_calibrate] || o->value[OPT_calibrate_cmd]))
        return diag_error(d, NULL, "--max-loss needs --quantize int8 and samples (--calibrate)");
    if (b->metric && !metric_find(b->metric, &k))
        return diag_error(d, NULL, "--metric %s: unknown metric, expected one of %s (top5 is topK)", b->metric,
                          metric_names(o->mem));
    return check_labels(b, d);
}
