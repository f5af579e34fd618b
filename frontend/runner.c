/* runner.c - opens what is to be run; see runner.h. */
#include "frontend/runner.h"
#include "frontend/interpret.h"
#include "frontend/policy.h"
#include <stdlib.h>
#include <unistd.h>

static bool has_suffix(const char *path, const char *suffix)
{
    size_t n = strlen(path), m = strlen(suffix);
    return n > m && !strcmp(path + n - m, suffix);
}

static bool open_graph(Runner *r, const Options *o, Diag *d, const char *path)
{
    Module *m = module_new(r->mem, d, path);
    if (o->value[OPT_quantize] && !makes_codes(o))
        return diag_error(d, NULL, "--interp computes with the types of the model; --quantize %s stores other ones",
                          o->value[OPT_quantize]);
    const Graph *g = r->graph = compile_graph(o, m, r->mem, path, &r->files);
    int *buf_of;
    if (!g || !(r->program = lower_graph(g, r->mem, &buf_of))) return false;
    const char **in = NEW_ARRAY(r->mem, const char *, g->input.n);
    DType *type = NEW_ARRAY(r->mem, DType, g->input.n);
    for (uint32_t i = 0; i < g->input.n; i++) {
        in[i] = graph_val(g, g->input.at[i])->name;
        type[i] = val_type(g, g->input.at[i])->dtype;
    }
    r->inputs = g->input.n, r->outputs = g->output.n;
    r->input = in, r->output = g->output_name.at, r->input_type = type;
    return true;
}

static bool load(Runner *r, const Options *o, Diag *d, const char *path)
{
    if (!artefact_load(path, &r->loaded, d)) return false;
    const OctetApi *api = r->loaded.api;
    const char **in = NEW_ARRAY(r->mem, const char *, api->inputs),
               **out = NEW_ARRAY(r->mem, const char *, api->outputs);
    DType *type = NEW_ARRAY(r->mem, DType, api->inputs);
    for (int32_t i = 0; i < api->inputs; i++) in[i] = api->input[i].name, type[i] = (DType)api->input[i].dtype;
    for (int32_t i = 0; i < api->outputs; i++) out[i] = api->output[i].name;
    r->inputs = (uint32_t)api->inputs, r->outputs = (uint32_t)api->outputs;
    r->input = in, r->output = out, r->input_type = type;
    if (!(r->session = session_new(&r->loaded, (int)option_int(o, OPT_threads, 1), d))) return false;
    if (!o->value[OPT_isa]) return true;
    if (!artefact_level(&r->loaded, o->value[OPT_isa], &r->level, d)) return false;
    session_level(r->session, r->level);
    return true;
}

/* What is run here and now is compiled for this machine alone, or for the level that the user chooses. */
static Options for_this_machine(const Options *o)
{
    Options here = *o;
    const Target *isa = here.value[OPT_isa] ? target_find(here.value[OPT_isa]) : NULL;
    bool is_level = isa && !isa->gpu && strcmp(isa->name, "portable") != 0; /* the target "portable" is all levels */
    if (!here.value[OPT_target] && (is_level || !here.value[OPT_isa]))
        here.value[OPT_target] = is_level ? isa->name : "native";
    return here;
}

/* The mapping stays valid when the file is gone, so nothing is left behind whatever happens later. */
static bool compile_and_load(Runner *r, const Options *o, Diag *d, const char *path)
{
    const Options here = for_this_machine(o);
    char *folder = arena_printf(r->mem, "%s/octet-XXXXXX", temporary_base());
    if (!mkdtemp(folder))
        return diag_error(d, NULL, "cannot make a temporary folder in %s", temporary_base());
    const char *out = arena_printf(r->mem, "%s/model.so", folder);
    bool ok = compile_file(&here, r->mem, d, path, out) && load(r, o, d, out);
    unlink(out), unlink(arena_printf(r->mem, "%s/model.h", folder)), rmdir(folder);
    return ok;
}

bool runner_open(Runner *r, const Options *o, Arena *mem, Diag *d, const char *path)
{
    *r = (Runner){.mem = mem, .files = {.mem = mem}, .compiled = !has_suffix(path, ".so") && !o->value[OPT_interp]};
    if (o->value[OPT_interp] && o->value[OPT_isa])
        return diag_error(d, NULL, "--isa chooses compiled code; --interp runs none");
    if (o->value[OPT_interp]) return open_graph(r, o, d, path);
    if (r->compiled) return compile_and_load(r, o, d, path);
    const char *slash = strrchr(path, '/');
    d->subject = slash ? slash + 1 : path;
    return load(r, o, d, slash ? path : arena_printf(mem, "./%s", path));
}

bool runner_run(Runner *r, Arena *mem, const Tensor *const *in, const Tensor **out, Diag *d)
{
    return r->graph ? interpret(r->graph, r->program, mem, in, out, d) : session_run(r->session, mem, in, out, d);
}

void runner_close(Runner *r)
{
    if (r->session) session_drop(r->session);
    if (r->loaded.api) artefact_unload(&r->loaded);
    files_drop(&r->files);
}

/* ---- inputs from the command line ---- */

static bool set_input(const Runner *r, const char *name, const Tensor *t, Diag *d, const Tensor **in)
{
    for (uint32_t i = 0; i < r->inputs; i++)
        if (!strcmp(r->input[i], name)) return in[i] = t, true;
    return diag_error(d, NULL, "the model has no input '%s'", name);
}

static bool read_input(const Runner *r, const char *arg, Arena *mem, Diag *d, const Tensor **in)
{
    const char *equals = strrchr(arg, '=');
    if (equals && has_suffix(equals, ".npy")) {
        const Tensor *t = npy_read(mem, d, equals + 1);
        return t && set_input(r, arena_text(mem, arg, (size_t)(equals - arg)), t, d, in);
    }
    if (has_suffix(arg, ".npy")) {
        const Tensor *t = r->inputs == 1 ? npy_read(mem, d, arg) : NULL;
        if (r->inputs != 1)
            return diag_error(d, NULL, "--input %s: the model has %u inputs; say NAME=%s", arg, r->inputs, arg);
        return t && set_input(r, r->input[0], t, d, in);
    }
    NamedTensors all = {0};
    bool ok = npz_read(mem, d, arg, &all);
    for (uint32_t i = 0; ok && i < all.n; i++) ok = set_input(r, all.at[i].name, all.at[i].tensor, d, in);
    return ok;
}

bool runner_inputs(const Runner *r, const Options *o, Arena *mem, Diag *d, const Tensor **in)
{
    bool ok = true;
    for (uint32_t i = 0; ok && i < o->list[OPT_input].n; i++) ok = read_input(r, o->list[OPT_input].at[i], mem, d, in);
    for (uint32_t i = 0; ok && i < r->inputs; i++)
        if (in[i] && in[i]->type != r->input_type[i] && dtypes[in[i]->type].bytes == dtypes[r->input_type[i]].bytes &&
            dtypes[in[i]->type].cls == DC_OTHER)
            ok = diag_error(d, NULL, "input '%s' has type %s, expected %s", r->input[i], dtypes[in[i]->type].name,
                            dtypes[r->input_type[i]].name);
    return ok;
}
