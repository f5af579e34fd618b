/* precision.c - see precision.h. */
#include "frontend/precision.h"

/* 16 bits of values cost time, and 8 of weights twice the memory of 4, which the bound as it stands is worth as long as the codes of
 * all products become no more than 7.5 % larger than with f16 scales. 8-bit integers are as small and as fast as float8. */
#define TIGHT 0.1
#define GROWTH 0.075
enum { LEAST_GROUP = 16, MOST_GROUP = 256, GROUP = 32 };

static const Precision rows[] = {
    {.name = "int8",
     .integer = true,
     .searched = "gptq",
     .weights = {.code = DT_i8},
     .table = {.code = DT_i8},
     .nearer = "--max-loss 1% keeps float what costs most",
     .help = "integer contractions, needs --calibrate or --ranges; tables that are looked up, and weights of depthwise "
             "convolutions, in 8 bits"},
    {.name = "int8-weights",
     .windows = "even",
     .weights = {.code = DT_i8},
     .table = {.code = DT_i8},
     .nearer = "--quantize bf16 is nearer",
     .help = "weights and tables in 8 bits, arithmetic is float"},
    {.name = "int4",
     .rounds = true,
     .weights = {.code = DT_u4, .asymmetric = true, .fine = true, .group = GROUP},
     .table = {.code = DT_u4, .asymmetric = true, .fine = true, .group = GROUP},
     .spared = {.code = DT_i8},
     .bound = 1,
     .part = GROWTH,
     .blind = "mse",
     .seen = "gptq",
     .windows = "even",
     .nearer = "a smaller --group, or --quantize int8-weights, is nearer",
     .help = "weights and tables in 4 bits (--group, --symmetric), those in 8 that would cost most; matrices meet "
             "values rounded to 8 bits (--values), other arithmetic is float"},
    {.name = "fp8",
     .weights = {.code = DT_f8e4m3fn, .group = GROUP},
     .table = {.code = DT_i8, .group = GROUP},
     .spared = {.code = DT_i8},
     .bound = TIGHT,
     .blind = "mse",
     .seen = "gptq",
     .windows = "even",
     .nearer = "--quantize int8-weights is nearer",
     .help =
         "weights as E4M3FN (--group), tables and those that would cost most in 8-bit integers; arithmetic is float"},
    {.name = "fp8-e5m2",
     .weights = {.code = DT_f8e5m2, .group = GROUP},
     .table = {.code = DT_i8, .group = GROUP},
     .spared = {.code = DT_i8},
     .bound = TIGHT,
     .blind = "mse",
     .seen = "gptq",
     .windows = "even",
     .nearer = "--quantize fp8 is nearer",
     .help = "the same as E5M2"},
    {.name = "bf16",
     .store = DT_bf16,
     .filtered = DT_bf16,
     .nearer = "--quantize fp16 is nearer",
     .help = "weights and values between kernels are stored so, arithmetic is float"},
    /* Tiles of minimal filtering grow with every transform, beyond what f16 holds. */
    {.name = "fp16", .store = DT_f16, .help = "the same with more digits and a smaller range"},
};

const Precision *precision_at(uint32_t i) { return i < COUNT_OF(rows) ? &rows[i] : NULL; }

const Precision *precision_of(const Options *o)
{
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (option_is(o, OPT_quantize, rows[i].name)) return &rows[i];
    return NULL;
}

static const char *rounding_seen(const Options *o, const Precision *p)
{
    return o->value[OPT_max_loss] && p->searched ? p->searched : p->seen;
}

static const WeightMethod *rounding(const Options *o, bool seen)
{
    const Precision *p = precision_of(o);
    const char *name = !p ? NULL : seen ? rounding_seen(o, p) : p->blind;
    if (!option_is(o, OPT_weights, "auto")) name = o->value[OPT_weights];
    return name ? weight_method_find(name) : weight_method_at(0);
}

const WeightMethod *precision_rounding(const Options *o)
{
    return rounding(o, o->value[OPT_calibrate] || o->value[OPT_calibrate_cmd]);
}

const WeightMethod *precision_rounding_blind(const Options *o) { return rounding(o, false); }

static bool has_forms(const Precision *p) { return dtype_is_int(p->weights.code) && !p->integer; } /* to choose, of its weights */
static bool has_codes(const Precision *p) { return p->weights.code != DT_NONE; }
static bool has_groups(const Precision *p) { return has_codes(p) && !p->integer; }

static const char *names_of(bool (*is)(const Precision *), Arena *mem)
{
    const char *all = "";
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (is(&rows[i])) all = arena_printf(mem, "%s%s%s", all, *all ? " or " : "--quantize ", rows[i].name);
    return all;
}

bool precision_check(const Options *o, Diag *d)
{
    const Precision *p = precision_of(o);
    static const struct {
        OptionId id;
        const char *name;
        bool (*has)(const Precision *);
    } forms[] = {{OPT_group, "--group", has_groups}, {OPT_symmetric, "--symmetric", has_forms}, {OPT_asymmetric, "--asymmetric", has_forms}};
    const OptionId turns[] = {OPT_rotate, OPT_equalize};
    for (size_t i = 0; i < COUNT_OF(turns); i++)
        if (option_is(o, turns[i], "on") && !(p && has_codes(p)))
            return diag_error(d, NULL, "--%s on needs %s", i ? "equalize" : "rotate", names_of(has_codes, o->mem));
    for (size_t i = 0; i < COUNT_OF(forms); i++)
        if (o->value[forms[i].id] && !(p && forms[i].has(p)))
            return diag_error(d, NULL, "%s needs %s", forms[i].name, names_of(forms[i].has, o->mem));
    if (o->value[OPT_symmetric] && o->value[OPT_asymmetric])
        return diag_error(d, NULL, "weights are --symmetric or --asymmetric, not both");
    int64_t group = option_int(o, OPT_group, GROUP);
    if (group == 0 || (group >= LEAST_GROUP && group <= MOST_GROUP && group % LEAST_GROUP == 0)) return true;
    return diag_error(d, NULL, "--group %lld: expected 0 (a scale for each output channel) or a multiple of %d up to %d",
                      (long long)group, LEAST_GROUP, MOST_GROUP);
}

bool precision_packs(const Options *o)
{
    const Precision *p = precision_of(o);
    int64_t group = option_int(o, OPT_group, GROUP);
    return p && dtypes[p->weights.code].bits == 4 && group && !(group & (group - 1));
}

static void choose(const Options *o, WeightForm *f)
{
    f->group = option_int(o, OPT_group, f->group);
    if (o->value[OPT_symmetric]) f->asymmetric = false;
    if (o->value[OPT_asymmetric]) f->asymmetric = true;
    f->fine = f->group && dtypes[f->code].bits < 8;
}

void precision_forms(const Options *o, Quantization *q)
{
    const Precision *p = precision_of(o);
    q->precision = p->name, q->float_activations = !p->integer;
    q->equalize = option_is(o, OPT_equalize, "on");
    bool uneven = p->integer && option_is(o, OPT_smooth, "off"); /* what smooths channels keeps weights that lie on grids */
    q->rotate = option_is(o, OPT_rotate, "on") || (uneven && !option_is(o, OPT_rotate, "off"));
    q->windows = p->windows && option_is(o, OPT_weights, "auto") ? weight_method_find(p->windows) : NULL;
    q->form = p->weights, q->table = p->table, q->spared = p->spared;
    q->bound = option_is(o, OPT_spare, "off") ? 0 : p->bound, q->part = p->part;
    if (p->weights.code) choose(o, &q->form);
    if (p->table.group) choose(o, &q->table);
}
