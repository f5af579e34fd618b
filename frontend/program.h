/* program.h - a graph compiled for this machine and loaded into this process, as calibration and searches run it. */
#ifndef OCTET_PROGRAM_H
#define OCTET_PROGRAM_H
#include "codegen/artefact.h"

typedef struct ProgramOptions {
    const Storage *store;   /* NULL: values as the graph says */
    const char *target;     /* NULL: native */
    int threads;
    Cache *cache;           /* of the compiler, or NULL */
    const char *name;       /* of the file, kept until program_drop(); NULL: it is gone once it is loaded */
} ProgramOptions;

typedef struct Program {
    Loaded loaded;
    Session *session;
    const char *path;       /* of the artefact, with a name */
} Program;
/* An artefact that exists. false: reported; what was opened is for program_drop(). */
bool program_open(Program *p, const char *path, int threads, Diag *diag);
bool program_new(Program *p, const Graph *g, const ProgramOptions *o, Arena *mem, Diag *diag); /* false: reported */
void program_drop(Program *p); /* also of one that is all zeros */
#endif
