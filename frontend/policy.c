/* policy.c - see policy.h. */
#include "frontend/policy.h"
#include "codegen/artefact.h"
#include "frontend/precision.h"

enum { KEEP_SYNTAX = REG_EXTENDED | REG_NOSUB };

/* What --fp32 makes products of. Several planes are several products for one: that pays only where tiles make them, and then products
 * are cheaper than transforms. */
typedef struct ProductKind {
    const char *name;
    int planes;
    bool tiles;
    DType filtered;
} ProductKind;
static const ProductKind product_kinds[] = {
    {"exact", 0, false, DT_f32}, {"bf16", 1, false, DT_bf16}, {"bf16x2", 2, true, DT_NONE}, {"bf16x3", 3, true, DT_NONE}};

static const Precision *stored(const Options *o) /* in another type */
{
    const Precision *p = precision_of(o);
    return p && p->store ? p : NULL;
}

static const ProductKind *product_kind(const Options *o)
{
    for (size_t i = 0; i < COUNT_OF(product_kinds); i++)
        if (option_is(o, OPT_fp32, product_kinds[i].name)) return &product_kinds[i];
    return &product_kinds[0];
}

bool makes_codes(const Options *o)
{
    const Precision *p = precision_of(o);
    return p && p->weights.code;
}

static bool keep_read(Policy *p, const char *keep, Diag *d)
{
    if (!keep) return true;
    if (regcomp(&p->kept, keep, KEEP_SYNTAX)) return diag_error(d, NULL, "--keep %s: not a regular expression", keep);
    p->store.keep = &p->kept;
    return true;
}

bool policy_read(Policy *p, const Options *o, Diag *d)
{
    const Precision *s = stored(o);
    const ProductKind *f = product_kind(o);
    SomeLevels tiles = target_bf16_tiles(o->value[OPT_target]);
    *p = (Policy){.storage = s ? s->name : NULL, .fp32 = f->name};
    if (f->tiles && tiles != ALL_LEVELS) {
        p->why = "only tiles make several products faster than one exact product, and the target does not promise them "
                 "(--target amx)";
        p->fp32 = product_kinds[0].name, f = &product_kinds[0];
    }
    p->store.type = s ? s->store : DT_NONE, p->store.planes = f->planes;
    p->filtered = s ? s->filtered : f->filtered;
    /* In tiles products are cheaper than transforms by more than transforms save elsewhere, and their weights take less room. */
    if (p->filtered == DT_bf16 && tiles) p->filtered = DT_NONE;
    return keep_read(p, o->value[OPT_keep], d);
}

void policy_drop(Policy *p)
{
    if (p->store.keep) regfree(&p->kept);
    p->store.keep = NULL;
}

bool policy_changes(const Policy *p) { return p->store.type || p->store.planes; }

static bool needs(const Options *o, OptionId id, const char *name, const char *what, Diag *d)
{
    return !o->value[id] || diag_error(d, NULL, "%s needs %s", name, what);
}

bool policy_check(const Options *o, Diag *d)
{
    bool products = product_kind(o)->planes > 0;
    Policy p;
    if (stored(o) && products)
        return diag_error(d, NULL, "--fp32 %s splits float32 values, and --quantize %s leaves none",
                          product_kind(o)->name, stored(o)->name);
    if (o->value[OPT_calibrate] && o->value[OPT_calibrate_cmd])
        return diag_error(d, NULL, "samples come from --calibrate or from --calibrate-cmd, not from both");
    if (o->value[OPT_calibration_cache] && !o->value[OPT_calibrate] && !o->value[OPT_calibrate_cmd])
        return diag_error(d, NULL, "--calibration-cache needs the samples it was made from: --calibrate or --calibrate-cmd (without samples: --ranges)");
    StatChoice method;
    const char *wrong = stat_choose(o->value[OPT_method], &method);
    if (wrong) return diag_error(d, NULL, "--method %s: %s", o->value[OPT_method], wrong);
    if (!precision_check(o, d) || !policy_read(&p, o, d)) return false;
    policy_drop(&p);
    bool samples = o->value[OPT_calibrate] || o->value[OPT_calibrate_cmd];
    const WeightMethod *rounding = precision_rounding(o);
    if (rounding->balance && precision_of(o) && precision_of(o)->integer)
        return diag_error(d, NULL,
                          "--weights %s makes values uneven, which rounding them to 8 bits as --quantize %s does cannot bear; "
                          "use it where weights alone are rounded (int4, int8-weights), or --weights gptq",
                          rounding->name, precision_of(o)->name);
    if (rounding->needs && !samples)
        return diag_error(d, NULL, "--weights %s needs samples (--calibrate)", o->value[OPT_weights]);
    if (precision_of(o) && precision_of(o)->integer)
        return samples || o->value[OPT_ranges] ||
               diag_error(d, NULL, "--quantize int8 needs --calibrate or --ranges");
    if (makes_codes(o)) return true;
    if (!needs(o, OPT_ranges, "--ranges", "--quantize int8", d) ||
        !needs(o, OPT_save_ranges, "--save-ranges", "--quantize int8", d) ||
        !needs(o, OPT_calibration_cache, "--calibration-cache", "--quantize int8", d))
        return false;
    if (o->value[OPT_quantize] || products) return true;
    if (!needs(o, OPT_keep, "--keep", "--quantize or --fp32", d)) return false;
    return o->value[OPT_report] || (needs(o, OPT_calibrate, "--calibrate", "--quantize, --fp32 or --report", d) &&
                                    needs(o, OPT_calibrate_cmd, "--calibrate-cmd", "--quantize, --fp32 or --report", d));
}
