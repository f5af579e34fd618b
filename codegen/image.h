/* image.h - one artefact while it is being made: what codegen.c, sizes.c, plan.c, tables.c, link.c and header.c hand each other. */
#ifndef OCTET_IMAGE_H
#define OCTET_IMAGE_H
#include "codegen/artefact.h"
#include "codegen/elf.h"

/* ---- sizes.c: every size of the model that depends on the call, as an entry of the runtime's size table ---- */
typedef struct SizeSymbol {
    OctetSymbol how;         /* SOURCE_BUFFER: index is a buffer of the program */
    uint32_t phase;          /* when its value is known */
    uint32_t when;           /* SOURCE_BUFFER: 1 + the reference of where the buffer is written at all; 0: always */
    bool defined, used;
    uint32_t at;             /* its place in the size table, once numbered */
} SizeSymbol;
typedef struct SizeEntry { Dim dim; const DimCode *code; uint32_t n, phase, at; } SizeEntry;
typedef struct Sizes {
    Arena *mem;
    Dims *dim;
    SizeSymbol *symbol;      /* per symbol of dim */
    VEC(SizeEntry) entry;    /* a reference to a size is an index into it until sizes_number */
    Map found;               /* by text of the Dim's number */
    uint32_t *phase_step;    /* first step of each phase; [0] is 0 */
    uint32_t phases;
    uint32_t symbols;        /* numbered ones */
} Sizes;
void sizes_new(Sizes *z, Arena *mem, Dims *dim);
void sizes_inputs(Sizes *z, const Graph *g);                         /* symbols that inputs define */
uint32_t size_ref(Sizes *z, Dim d);                                  /* learnt equalities applied */
uint32_t size_ref_raw(Sizes *z, Dim d);                              /* as it stands: what a guard compares */
const char *sizes_undefined(const Sizes *z);                         /* a used symbol that nothing defines, or NULL */
void sizes_number(Sizes *z);                                         /* places: symbols by phase, then programs by phase */
uint32_t size_at(const Sizes *z, uint32_t ref);                      /* its place in the runtime's table */
uint32_t size_phase(const Sizes *z, uint32_t ref);
int dim_code_depth(const DimCode *code, uint32_t n);                 /* stack entries it needs */
bool size_const(const Sizes *z, uint32_t ref, int64_t *v);
int64_t size_guess(const Sizes *z, Dim d);                           /* with every free size a middling number, for heuristics */
Dim dim_of_expr(Dims *to, Kernel *k, Expr e, const Dim *symbol);     /* an index expression of a kernel as a size of the program; symbol: per symbol of k->dim, NULL: the same Dims */

/* ---- plan.c: lifetimes, barriers, offsets ---- */
typedef struct PlanStep { const uint32_t *buf; const bool *writes, *apart; uint32_t bufs; bool single; } PlanStep; /* apart: stores where no other step does; single: thread 0 does all of it */
typedef struct PlanBuf { uint64_t bytes; uint32_t first, last; bool used; uint64_t offset; } PlanBuf; /* bytes with slack; used: touched by a step */
typedef struct Plan {
    PlanStep *step;
    uint32_t steps;
    PlanBuf *buf;            /* the caller's numbering */
    uint32_t bufs;
    bool *barrier;           /* per step; on entry: true forces one */
    uint64_t arena;          /* bytes, after plan_offsets */
} Plan;
void plan_barriers(Plan *p, Arena *mem);
void plan_lifetimes(Plan *p, Arena *mem);                            /* after plan_barriers: lives end at barriers */
void plan_offsets(Plan *p, Arena *mem, const uint32_t *which, uint32_t n); /* those of buf[] that lie in the arena, with constant bytes */
enum { PLAN_ALIGN = 64, PLAN_SLACK = 64 };
static inline uint64_t plan_bytes(uint64_t bytes) { return (bytes + PLAN_SLACK + PLAN_ALIGN - 1) / PLAN_ALIGN * PLAN_ALIGN; } /* as rt.c's block_bytes */

/* ---- work.c: what a step does, for profiles ---- */
enum { WORK_BATCH, WORK_ROWS, WORK_COLUMNS, WORK_DEPTH, WORK_SIZES };
typedef struct StepWork { const char *what; OctetMath math; Dim size[WORK_SIZES], operations, bytes; } StepWork; /* as OctetWork */
StepWork step_work(Kernel *k, Sizes *z, const struct CutStep *step, const bool *has_memory); /* has_memory: per buffer of k */
double step_guess(Kernel *k, const Sizes *z, const struct CutStep *step); /* plain operations, roughly */
bool *hardly_seen(const double *time, uint32_t n, Arena *mem);       /* those of least time that together take a small part of all */

/* ---- constant.c: constants in the order of their layout ---- */
uint64_t layout_elements(const Layout *l, int rank, const int64_t *dim);
bool constant_write(const Tensor *t, const Layout *l, FILE *f);

/* ---- the image itself ---- */
typedef struct Level {
    const Target *target;
    Kernel **kernel;         /* scheduled, per kernel of the cut */
    const char **symbol;     /* of the compiled function, per kernel; several levels may share one */
} Level;
typedef struct Image {
    Arena *mem;
    Diag *diag;
    const Graph *g;
    const CodegenOptions *options;
    const char *name;        /* prefix of every symbol */
    Kernel *program;
    int *buf_of;             /* per Val */
    Val *value_of;           /* per buffer of the lowered program: what leaves it there, an output or a size that is computed; id 0: nothing does */
    int *output_of, *input_of; /* per program buffer: 1 + which output, input; 0: none */
    Cut *cut;
    const bool *rare;        /* per kernel of the cut: it takes so little time that levels need no code of their own for it */
    Level *level;
    uint32_t levels;
    Sizes sizes;
    Bytes *object;           /* compiled kernels */
    uint32_t objects;
    uint64_t arena_bytes;    /* without scratch; UINT64_MAX: dynamic */
    uint32_t scratch;        /* a thread's, on the level that needs most */
} Image;
bool tables_build(Image *im, Elf *e);                                /* false: reported */
bool artefact_link(Image *im, const Elf *tables);                    /* false: reported, no file left */
bool header_write(const Image *im, FILE *f);
const char *header_path(Arena *mem, const char *out);                /* OUT.so -> OUT.h */
#endif
