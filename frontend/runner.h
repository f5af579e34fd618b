/* runner.h - a model ready to run in this process, however it came: an artefact, an .onnx compiled into a temporary one, or an
 * .onnx for the interpreter. What `run`, `verify` and `bench` share. */
#ifndef OCTET_RUNNER_H
#define OCTET_RUNNER_H
#include "codegen/artefact.h"
#include "frontend/compile.h"
#include "frontend/npz.h"

typedef struct Runner {
    Arena *mem;
    Files files;
    uint32_t inputs, outputs;
    const char *const *input, *const *output; /* names */
    const DType *input_type;
    const Graph *graph; /* interpreter */
    Kernel *program;
    Loaded loaded; /* artefact */
    Session *session;
    bool compiled; /* of an .onnx, here and now */
    int32_t level; /* with --isa */
} Runner;

bool runner_open(Runner *r, const Options *o, Arena *mem, Diag *d, const char *path); /* false: reported */
bool runner_run(Runner *r, Arena *mem, const Tensor *const *in, const Tensor **out, Diag *d);
void runner_close(Runner *r);
/* --input arguments: in[i] is set for every input that is named; the others stay. false: reported. */
bool runner_inputs(const Runner *r, const Options *o, Arena *mem, Diag *d, const Tensor **in);
#endif
