/* options.c - parses a command's arguments by the rows of options.def and prints its help from them. */
#include "frontend/options.h"
#include "frontend/cli.h"
#include <sched.h>
#include <stdlib.h>

enum { COMPILE = 1, RUN = 2, VERIFY = 4, INSPECT = 8, BENCH = 16, OPERATORS = 32, QUANTIZE = 64 };
typedef enum Kind { FLAG, TEXT, LIST, INT, SIZE, CHOICE, LATER } Kind;
typedef struct Row {
    const char *name;
    Kind kind;
    unsigned commands;
    const char *value, *later, *fallback, *help;
} Row;
static const Row rows[OPT_COUNT] = {
#define OPTION(id, ...) [OPT_##id] = {__VA_ARGS__},
#include "frontend/options.def"
#undef OPTION
};

static const Command commands[] = {
    {"compile", COMPILE, "MODEL.onnx -o OUT", "compile a model to a shared object, object, archive or executable", 1, 1,
     command_compile},
    {"quantize", QUANTIZE, "MODEL.onnx -o Q.onnx", "write the quantized model as ONNX, for any engine", 1, 1,
     command_quantize},
    {"run", RUN, "ARTEFACT|MODEL.onnx --input IN.npz --output OUT.npz", "run a model once", 1, 1, command_run},
    {"verify", VERIFY, "DIR...", "check models against recorded inputs and outputs (layout of the official ONNX tests)",
     1, INT32_MAX, command_verify},
    {"inspect", INSPECT, "MODEL.onnx", "what is in a model, and everything that keeps it from being compiled", 1, 1,
     command_inspect},
    {"bench", BENCH, "ARTEFACT|MODEL.onnx", "measure the time of a run", 1, 1, command_bench},
    {"operators", OPERATORS, "", "print the table of operators (docs/OPERATORS.md)", 0, 0, command_operators},
};

const Command *command_at(uint32_t i) { return i < COUNT_OF(commands) ? &commands[i] : NULL; }

const Command *command_find(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(commands); i++)
        if (!strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

/* A choice written "name:P" is taken with a parameter, too. */
static bool in_choices(const char *choices, const char *v)
{
    size_t n = strlen(v), name = strcspn(v, ":");
    for (const char *p = choices; p && v[name]; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (name && !strncmp(p, v, name) && p[name] == ':') return true;
    for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (n && !strncmp(p, v, n) && (!p[n] || p[n] == '|' || p[n] == ':')) return true;
    return false;
}

/* A whole number, with K, M or G behind it for sizes. */
static bool parse_number(const char *text, bool size, int64_t *v)
{
    char *end;
    if (*text < '0' || *text > '9' || strlen(text) > 18) return false;
    *v = strtoll(text, &end, 10);
    const char *unit = size && *end ? strchr("KMG", *end) : NULL;
    if (unit && *v > INT64_MAX >> 31) return false;
    if (unit) *v <<= 10 * (unit - "KMG" + 1), end++;
    return !*end;
}

static const Row *row_find(const Command *c, const char *arg, size_t n, OptionId *id)
{
    for (size_t i = 0; i < OPT_COUNT; i++)
        if ((rows[i].commands & c->bit) && strlen(rows[i].name) == n && !strncmp(rows[i].name, arg, n))
            return *id = (OptionId)i, &rows[i];
    return NULL;
}

static bool is_later(const Row *r, const char *v)
{
    return r->later &&
           (in_choices(r->later, v) || (strchr(v, ':') && !strncmp(v, "cuda:", 5) && in_choices(r->later, "cuda")));
}

static bool take(Options *o, Diag *d, OptionId id, const char *v)
{
    const Row *r = &rows[id];
    int64_t number;
    if (r->kind == CHOICE && is_later(r, v)) return diag_error(d, NULL, "%s %s is not built yet", r->name, v);
    if (r->kind == CHOICE && !in_choices(r->value, v))
        return diag_error(d, NULL, "%s %s: unknown value, expected %s", r->name, v, r->value);
    if ((r->kind == INT || r->kind == SIZE) && !parse_number(v, r->kind == SIZE, &number))
        return diag_error(d, NULL, "%s %s: not a number", r->name, v);
    if (r->kind == LIST) vec_push(o->mem, &o->list[id], v);
    o->value[id] = v;
    return true;
}

/* Takes the option at argv[0] and says how many arguments it used; 0: reported. */
static int take_option(Options *o, Diag *d, int argc, const char *const *argv)
{
    const char *arg = argv[0], *equals = strncmp(arg, "--", 2) ? NULL : strchr(arg, '=');
    size_t n = equals ? (size_t)(equals - arg) : strlen(arg);
    OptionId id;
    const Row *r = row_find(o->command, arg, n, &id);
    if (!r) return diag_error(d, NULL, "unknown option '%s' (octet %s --help lists them)", arg, o->command->name), 0;
    if (r->kind == LATER) return diag_error(d, NULL, "%s is not built yet", r->name), 0;
    if (r->kind == FLAG)
        return equals ? (diag_error(d, NULL, "%s takes no value", r->name), 0) : (o->value[id] = "", 1);
    if (!equals && argc < 2) return diag_error(d, NULL, "%s needs a value: %s", r->name, r->value), 0;
    if (!take(o, d, id, equals ? equals + 1 : argv[1])) return 0;
    return equals ? 1 : 2;
}

bool options_parse(Options *o, Diag *d, int argc, const char *const *argv)
{
    bool only_args = false;
    for (int i = 0; i < OPT_COUNT; i++) o->value[i] = (rows[i].commands & o->command->bit) ? rows[i].fallback : NULL;
    for (int i = 0; i < argc;) {
        bool option = !only_args && argv[i][0] == '-' && argv[i][1];
        if (option && !strcmp(argv[i], "--")) {
            only_args = true, i++;
        } else if (option) {
            int used = take_option(o, d, argc - i, argv + i);
            if (!used) return false;
            i += used;
        } else {
            vec_push(o->mem, &o->arg, argv[i++]);
        }
    }
    if (o->value[OPT_help]) return true;
    if ((int64_t)o->arg.n < o->command->least)
        return diag_error(d, NULL, "usage: octet %s %s [options]", o->command->name, o->command->synopsis);
    if ((int64_t)o->arg.n > o->command->most)
        return diag_error(d, NULL, "unexpected argument '%s'", o->arg.at[o->command->most]);
    return true;
}

bool option_is(const Options *o, OptionId id, const char *value)
{
    return o->value[id] && !strcmp(o->value[id], value);
}

int64_t option_int(const Options *o, OptionId id, int64_t otherwise)
{
    int64_t v;
    return o->value[id] && parse_number(o->value[id], rows[id].kind == SIZE, &v) ? v : otherwise;
}

void options_help(const Command *c, FILE *f)
{
    fprintf(f, "usage: octet %s%s%s [options]\n%s\n\n", c->name, *c->synopsis ? " " : "", c->synopsis, c->help);
    for (size_t i = 0; i < OPT_COUNT; i++) {
        const Row *r = &rows[i];
        if (!(r->commands & c->bit) || r->kind == LATER) continue;
        fprintf(f, "  %s%s%s\n      %s", r->name, r->value ? " " : "", r->value ? r->value : "", r->help);
        if (r->fallback) fprintf(f, " (default: %s)", r->fallback);
        fputc('\n', f);
    }
}

int usable_cpus(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

const char *options_text(const Options *o, Arena *mem)
{
    static const OptionId beside[] = {OPT_out,   OPT_report,  OPT_quiet, OPT_jobs,
                                      OPT_cache, OPT_timeout, OPT_time,  OPT_save_ranges};
    const char *all = "";
    for (int i = 0; i < OPT_COUNT; i++) {
        bool skip = !o->value[i] || o->value[i] == rows[i].fallback;
        for (size_t k = 0; k < COUNT_OF(beside); k++) skip = skip || beside[k] == (OptionId)i;
        if (skip && !o->list[i].n) continue;
        for (uint32_t k = 0; k < o->list[i].n; k++)
            all = arena_printf(mem, "%s%s%s %s", all, *all ? " " : "", rows[i].name, o->list[i].at[k]);
        if (!skip)
            all = arena_printf(mem, "%s%s%s%s%s", all, *all ? " " : "", rows[i].name, rows[i].kind == FLAG ? "" : " ",
                               rows[i].kind == FLAG ? "" : o->value[i]);
    }
    return all;
}
