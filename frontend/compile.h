/* compile.h - the driver: a model file through import, passes and code generation. */
#ifndef OCTET_COMPILE_H
#define OCTET_COMPILE_H
#include "frontend/import.h"
#include "frontend/options.h"

/* --dim, --max-memory. false: a usage error, reported. */
bool import_options(const Options *o, Diag *d, ImportOptions *out);
/* The graph after all passes, quantized when asked for. NULL: reported. */
Graph *compile_graph(const Options *o, Module *m, Arena *mem, const char *path, Files *files);
/* The whole way, to an artefact at `out`. false: reported. */
bool compile_file(const Options *o, Arena *mem, Diag *d, const char *path, const char *out);
#endif
