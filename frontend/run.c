/* run.c - `octet run`: named arrays in, one run, named arrays out. */
#include "frontend/cli.h"
#include "frontend/runner.h"

static bool run_once(const Options *o, Arena *mem, Diag *d, Runner *r)
{
    const Tensor **in = NEW_ARRAY(mem, const Tensor *, r->inputs + 1),
                 **out = NEW_ARRAY(mem, const Tensor *, r->outputs + 1);
    if (!runner_inputs(r, o, mem, d, in)) return false;
    for (uint32_t i = 0; i < r->inputs; i++)
        if (!in[i]) diag_error(d, NULL, "input '%s' is missing (--input)", r->input[i]);
    if (d->errors || !runner_run(r, mem, in, out, d)) return false;
    NamedTensors named = {0};
    for (uint32_t i = 0; i < r->outputs; i++) vec_push(mem, &named, (NamedTensor){r->output[i], out[i]});
    return npz_write(d, o->value[OPT_output], &named);
}

int command_run(const Options *o, Diag *d)
{
    Arena mem = {0};
    Runner r;
    if (!o->value[OPT_output])
        return diag_error(d, NULL, "where to? --output OUT.npz (- is standard output)"), EXIT_USAGE;
    bool ok = runner_open(&r, o, &mem, d, o->arg.at[0]) && run_once(o, &mem, d, &r);
    runner_close(&r);
    arena_drop(&mem);
    return ok ? 0 : EXIT_MODEL;
}
