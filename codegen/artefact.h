/* artefact.h - the last step: everything code generation made becomes a file that needs nothing of ours at run time.
 *
 * codegen_graph() is the whole of code generation: it lowers, clusters, lays out, cuts, tunes, schedules, compiles for every
 * level of the target, plans memory and writes the artefact atomically (a temporary beside the output, then rename).
 * The output's name without folder and suffix, as a C identifier, prefixes every exported symbol. */
#ifndef OCTET_ARTEFACT_H
#define OCTET_ARTEFACT_H
#include "codegen/codegen.h"
#include <stdio.h>

typedef enum ArtefactKind { ARTEFACT_SO, ARTEFACT_OBJECT, ARTEFACT_ARCHIVE, ARTEFACT_EXECUTABLE } ArtefactKind;
ArtefactKind artefact_kind(const char *path);        /* by suffix: .so .o .a, otherwise an executable */

typedef struct CodegenOptions {
    const char *target;      /* "portable": every level of this architecture; "native": the best level of this machine; or a level's name */
    const char *out;
    ArtefactKind kind;
    int jobs;                /* compile threads; 0: as many as this process may use */
    int max_threads;         /* largest thread count of the artefact's own pool; 1: built without a pool; 0: no limit */
    Storage store;           /* type DT_NONE: every value as the model says */
    Cache *cache;            /* NULL, or finished kernels (cache.h) */
    const char *weights;     /* NULL, or a file of their own, for artefact_weights(): linking would copy them once more */
    bool quiet;              /* no progress line */
    FILE *times;             /* NULL, or where to print how long each step takes */
    const char *emit;        /* NULL, or "kernel" (program after cut, with schedules and loops), "llvm", "asm", "cuda": printed to `text` instead */
    FILE *text;
} CodegenOptions;

/* Which instruction-set levels of this --target sum bf16 in tiles? */
typedef enum SomeLevels { NO_LEVEL, SOME_LEVELS, ALL_LEVELS } SomeLevels;
SomeLevels target_bf16_tiles(const char *target);
bool codegen_graph(const Graph *g, const CodegenOptions *o, Diag *diag); /* false: reported, and no file is left */

/* ---- running an artefact in this process (calibration, `run`, `verify`, `bench`) ---- */
typedef struct Loaded {
    void *handle;
    const OctetApi *api;
    void *weights;           /* NULL, or a mapped file */
    size_t weight_bytes;
} Loaded;
bool artefact_load(const char *path, Loaded *l, Diag *diag);             /* a .so; finds NAME_octet_api by scanning its dynamic symbols */
bool artefact_weights(const char *path, Loaded *l, Diag *diag);           /* maps those that are in a file of their own; before any session */
void artefact_unload(Loaded *l);
void artefact_rest(const Loaded *l);                                     /* its weights and code leave memory until it runs again */
/* The level of that name, when the artefact has it and this machine runs it. false: reported, with those that are left. */
bool artefact_level(const Loaded *l, const char *isa, int32_t *level, Diag *diag);

/* One context with its pool and arena, grown as needed, for callers in the compiler. Not for hot paths' allocation rules. */
typedef struct Session Session;
Session *session_new(const Loaded *l, int threads, Diag *diag);           /* NULL: reported */
void session_drop(Session *s);
/* in: one Tensor per input in the model's order, matching types. out: receives new Tensors in mem. false: reported. */
bool session_run(Session *s, Arena *mem, const Tensor *const *in, const Tensor **out, Diag *diag);
void session_level(Session *s, int level);                                /* caps the instruction set */
void session_profile(Session *s, uint64_t *nanoseconds);                  /* per step of the model, added to by every run; NULL: no longer */
double session_seconds(const Session *s);                                 /* of the last run alone */
size_t session_memory(const Session *s);                                  /* bytes of work memory that runs have needed */
#endif
