/* compile.c - jobs in, relocatable objects out.
 *
 * Jobs are cut into batches; a batch is one LLVM context, one module, one object. Optimisation and code generation,
 * nearly all of the time, run on as many threads as asked for. Making the IR takes a lock: kernels share a pool of
 * expressions. Batches depend on the jobs alone, never on the threads, so the same jobs give the same bytes. */
#include "codegen/llvm/internal.h"
#include <llvm-c/Analysis.h>
#include <llvm-c/Error.h>
#include <llvm-c/LLJIT.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { BATCH = 8 };

typedef struct Triple {
    const char *arch, *triple;
} Triple;
static const Triple triples[] = {{"x86_64", "x86_64-unknown-linux-gnu"}, {"aarch64", "aarch64-unknown-linux-gnu"}};

static const char *triple_of(const Target *t)
{
    for (size_t i = 0; i < COUNT_OF(triples); i++)
        if (!strcmp(triples[i].arch, t->arch)) return triples[i].triple;
    return NULL;
}

static void initialize_once(void)
{
    LLVMInitializeX86TargetInfo(), LLVMInitializeX86Target(), LLVMInitializeX86TargetMC(),
        LLVMInitializeX86AsmPrinter();
    LLVMInitializeAArch64TargetInfo(), LLVMInitializeAArch64Target(), LLVMInitializeAArch64TargetMC(),
        LLVMInitializeAArch64AsmPrinter();
}

static void initialize(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, initialize_once);
}

/* ---- one module ---- */
typedef struct Unit {
    LLVMContextRef c;
    LLVMModuleRef m;
    LLVMTargetMachineRef tm;
    char *error; /* LLVM's, to be disposed */
} Unit;

static bool unit_open(Unit *u, const Target *t)
{
    initialize();
    *u = (Unit){0};
    const char *triple = triple_of(t);
    LLVMTargetRef target;
    if (!triple) {
        u->error = LLVMCreateMessage("no code generator for this architecture");
        return false;
    }
    if (LLVMGetTargetFromTriple(triple, &target, &u->error)) return false;
    LLVMTargetMachineOptionsRef o = LLVMCreateTargetMachineOptions();
    LLVMTargetMachineOptionsSetRelocMode(o, LLVMRelocPIC);
    LLVMTargetMachineOptionsSetCodeGenOptLevel(o, LLVMCodeGenLevelAggressive);
    u->tm = LLVMCreateTargetMachineWithOptions(target, triple, o); /* each function says its own cpu and features */
    LLVMDisposeTargetMachineOptions(o);
    u->c = LLVMContextCreate(), u->m = LLVMModuleCreateWithNameInContext("octet", u->c);
    LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(u->tm);
    LLVMSetTarget(u->m, triple), LLVMSetModuleDataLayout(u->m, layout);
    LLVMDisposeTargetData(layout);
    return true;
}

static void unit_close(Unit *u)
{
    if (u->m) LLVMDisposeModule(u->m);
    if (u->c) LLVMContextDispose(u->c);
    if (u->tm) LLVMDisposeTargetMachine(u->tm);
    if (u->error) LLVMDisposeMessage(u->error);
}

static bool unit_optimise(Unit *u)
{
    if (LLVMVerifyModule(u->m, LLVMReturnStatusAction, &u->error)) return false;
    LLVMDisposeMessage(u->error), u->error = NULL;
    LLVMPassBuilderOptionsRef o = LLVMCreatePassBuilderOptions();
    LLVMPassBuilderOptionsSetLoopVectorization(o, 0), LLVMPassBuilderOptionsSetSLPVectorization(o, 0);
    LLVMPassBuilderOptionsSetLoopUnrolling(o, 0); /* the schedule has decided all three */
    LLVMErrorRef e = LLVMRunPasses(u->m, "default<O2>", u->tm, o);
    LLVMDisposePassBuilderOptions(o);
    if (!e) return true;
    char *text = LLVMGetErrorMessage(e);
    u->error = LLVMCreateMessage(text);
    LLVMDisposeErrorMessage(text);
    return false;
}

static bool unit_emit(Unit *u, LLVMCodeGenFileType type, LLVMMemoryBufferRef *out)
{
    *out = NULL;
    return !LLVMTargetMachineEmitToMemoryBuffer(u->tm, u->m, type, &u->error, out);
}

static bool unit_report(const Unit *u, Diag *diag, const LlvmJob *job)
{
    return diag_error(diag, NULL, "code generation of kernel %s for %s failed: %s", job->symbol, job->target->name,
                      u->error ? u->error : "unknown reason");
}

static void add_jobs(Unit *u, const LlvmJob *job, uint32_t n)
{
    Arena mem = {0};
    for (uint32_t i = 0; i < n; i++) llvm_emit(u->m, &job[i], &mem);
    arena_drop(&mem);
}

/* ---- many jobs ---- */
typedef struct Pool {
    Arena *mem;
    Diag *diag;
    const LlvmJob *job;
    uint32_t jobs, batches;
    Bytes *object;
    atomic_uint next;
    bool failed;
    pthread_mutex_t lock; /* kernels' pools, mem, diag, failed */
} Pool;

static void batch_compile(Pool *p, uint32_t b)
{
    const LlvmJob *job = &p->job[b * BATCH];
    uint32_t n = p->jobs - b * BATCH < BATCH ? p->jobs - b * BATCH : BATCH;
    Unit u;
    LLVMMemoryBufferRef object = NULL;
    bool ok = unit_open(&u, job->target);
    if (ok) {
        pthread_mutex_lock(&p->lock);
        add_jobs(&u, job, n);
        pthread_mutex_unlock(&p->lock);
        ok = unit_optimise(&u) && unit_emit(&u, LLVMObjectFile, &object);
    }
    pthread_mutex_lock(&p->lock);
    if (ok) {
        size_t size = LLVMGetBufferSize(object);
        p->object[b] = (Bytes){arena_copy(p->mem, LLVMGetBufferStart(object), size), size};
    } else {
        p->failed = true;
        unit_report(&u, p->diag, job);
    }
    pthread_mutex_unlock(&p->lock);
    if (object) LLVMDisposeMemoryBuffer(object);
    unit_close(&u);
}

static void *work(void *pool)
{
    Pool *p = pool;
    for (uint32_t b; (b = atomic_fetch_add(&p->next, 1)) < p->batches;) batch_compile(p, b);
    return NULL;
}

bool llvm_compile(Arena *mem, Diag *diag, const LlvmJob *job, uint32_t jobs, int threads, Bytes **objects,
                  uint32_t *nobjects)
{
    enum { MAX_THREADS = 256 };
    Pool p = {.mem = mem, .diag = diag, .job = job, .jobs = jobs, .batches = (jobs + BATCH - 1) / BATCH};
    pthread_t thread[MAX_THREADS];
    int started = 0, want = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    if ((uint32_t)want > p.batches) want = (int)p.batches;
    p.object = NEW_ARRAY(mem, Bytes, p.batches);
    pthread_mutex_init(&p.lock, NULL);
    while (started < want - 1 && !pthread_create(&thread[started], NULL, work, &p)) started++;
    work(&p);
    while (started) pthread_join(thread[--started], NULL);
    pthread_mutex_destroy(&p.lock);
    *objects = p.object, *nobjects = p.batches;
    return !p.failed;
}

bool llvm_text(Arena *mem, Diag *diag, const LlvmJob *job, bool assembly, const char **text)
{
    Unit u;
    LLVMMemoryBufferRef out = NULL;
    bool ok = unit_open(&u, job->target);
    if (ok) add_jobs(&u, job, 1);
    ok = ok && unit_optimise(&u) && (!assembly || unit_emit(&u, LLVMAssemblyFile, &out));
    if (!ok) unit_report(&u, diag, job);
    if (ok && out) *text = arena_text(mem, LLVMGetBufferStart(out), LLVMGetBufferSize(out));
    if (ok && !out) {
        char *ir = LLVMPrintModuleToString(u.m);
        *text = arena_text(mem, ir, strlen(ir));
        LLVMDisposeMessage(ir);
    }
    if (out) LLVMDisposeMemoryBuffer(out);
    unit_close(&u);
    return ok;
}

/* ---- in this process: the same objects, linked by ORC ---- */
struct LlvmJit {
    Arena mem;
    Diag *diag;
    LLVMOrcLLJITRef orc;
    uint32_t count; /* of kernels: their symbols must differ */
};

static bool orc_failed(LlvmJit *j, LLVMErrorRef e)
{
    if (!e) return false;
    char *text = LLVMGetErrorMessage(e);
    diag_error(j->diag, NULL, "running code in this process failed: %s", text);
    LLVMDisposeErrorMessage(text);
    return true;
}

LlvmJit *llvm_jit_new(Diag *diag)
{
    initialize();
    Arena mem = {0};
    LlvmJit *j = NEW(&mem, LlvmJit);
    j->mem = mem, j->diag = diag;
    LLVMOrcDefinitionGeneratorRef process = NULL;
    if (orc_failed(j, LLVMOrcCreateLLJIT(&j->orc, NULL))) goto failed;
    char prefix = LLVMOrcLLJITGetGlobalPrefix(j->orc);
    /* libm, memcpy */
    if (orc_failed(j, LLVMOrcCreateDynamicLibrarySearchGeneratorForProcess(&process, prefix, NULL, NULL))) goto failed;
    LLVMOrcJITDylibAddGenerator(LLVMOrcLLJITGetMainJITDylib(j->orc), process);
    return j;
failed:
    llvm_jit_drop(j);
    return NULL;
}

/* A unit with its code in it becomes a function of this process. */
static OctetKernel jit_finish(LlvmJit *j, Unit *u, bool ok, const LlvmJob *job)
{
    LLVMMemoryBufferRef object = NULL;
    ok = ok && unit_optimise(u) && unit_emit(u, LLVMObjectFile, &object);
    if (!ok) unit_report(u, j->diag, job);
    unit_close(u);
    if (!ok) return NULL;
    LLVMOrcExecutorAddress at;
    if (orc_failed(j, LLVMOrcLLJITAddObjectFile(j->orc, LLVMOrcLLJITGetMainJITDylib(j->orc), object))) return NULL;
    if (orc_failed(j, LLVMOrcLLJITLookup(j->orc, &at, job->symbol))) return NULL;
    return (OctetKernel)(uintptr_t)at;
}

OctetKernel llvm_jit_add(LlvmJit *j, const LlvmJob *job)
{
    Unit u;
    LlvmJob named = *job;
    named.symbol = arena_printf(&j->mem, "%s_%u", job->symbol, j->count++);
    bool ok = unit_open(&u, job->target);
    if (ok) add_jobs(&u, &named, 1);
    return jit_finish(j, &u, ok, &named);
}

OctetKernel llvm_probe(LlvmJit *j, const Target *t, ProbeKind kind, double *per_round)
{
    Unit u;
    Arena mem = {0};
    LlvmJob named = {.target = t, .symbol = arena_printf(&j->mem, "probe_%u", j->count++)};
    bool ok = unit_open(&u, t);
    if (ok) *per_round = probe_emit(u.m, t, kind, named.symbol, &mem);
    arena_drop(&mem);
    return jit_finish(j, &u, ok, &named);
}

void llvm_jit_drop(LlvmJit *j)
{
    if (!j) return;
    if (j->orc) orc_failed(j, LLVMOrcDisposeLLJIT(j->orc));
    Arena mem = j->mem;
    arena_drop(&mem);
}
