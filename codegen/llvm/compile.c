/* compile.c - jobs in, relocatable objects out.
 *
 * A job is one LLVM context, one module, one object. Optimisation and code generation, nearly all of the time, run on as
 * many threads as asked for. Making the IR takes a lock: kernels share a pool of expressions. A kernel is compiled under the same
 * name whatever it is called in its artefact, so that its unoptimised IR says all there is to know of its object: jobs with equal IR are
 * compiled once, and equal objects (levels that differ in instructions a kernel has no use for) are one. */
#include "codegen/cache.h"
#include "codegen/llvm/internal.h"
#include <llvm-c/Analysis.h>
#include <llvm-c/BitWriter.h>
#include <llvm-c/Error.h>
#include <llvm-c/LLJIT.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

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
    LLVMTargetMachineRef tm; /* of the architecture; each function says its own cpu and features */
    char *error;             /* LLVM's, to be disposed */
} Unit;

static LLVMTargetMachineRef machine_new(const Target *t, char **error)
{
    initialize();
    const char *triple = triple_of(t);
    LLVMTargetRef target;
    if (!triple) {
        *error = LLVMCreateMessage("no code generator for this architecture");
        return NULL;
    }
    if (LLVMGetTargetFromTriple(triple, &target, error)) return NULL;
    LLVMTargetMachineOptionsRef o = LLVMCreateTargetMachineOptions();
    LLVMTargetMachineOptionsSetRelocMode(o, LLVMRelocPIC);
    LLVMTargetMachineOptionsSetCodeGenOptLevel(o, LLVMCodeGenLevelAggressive);
    LLVMTargetMachineRef tm = LLVMCreateTargetMachineWithOptions(target, triple, o);
    LLVMDisposeTargetMachineOptions(o);
    return tm;
}

static void module_open(Unit *u, const Target *t)
{
    u->c = LLVMContextCreate(), u->m = LLVMModuleCreateWithNameInContext("octet", u->c);
    LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(u->tm);
    LLVMSetTarget(u->m, triple_of(t)), LLVMSetModuleDataLayout(u->m, layout);
    LLVMDisposeTargetData(layout);
}

static void module_close(Unit *u)
{
    if (u->m) LLVMDisposeModule(u->m);
    if (u->c) LLVMContextDispose(u->c);
    if (u->error) LLVMDisposeMessage(u->error);
    u->m = NULL, u->c = NULL, u->error = NULL;
}

static bool unit_open(Unit *u, const Target *t)
{
    *u = (Unit){0};
    if ((u->tm = machine_new(t, &u->error))) module_open(u, t);
    return u->tm != NULL;
}

static void unit_close(Unit *u)
{
    module_close(u);
    if (u->tm) LLVMDisposeTargetMachine(u->tm);
}

/* Linkers write a file's name before its local symbols: once optimised, no function needs to be one. */
static void functions_hide(LLVMModuleRef m)
{
    for (LLVMValueRef f = LLVMGetFirstFunction(m); f; f = LLVMGetNextFunction(f))
        if (LLVMGetLinkage(f) == LLVMInternalLinkage)
            LLVMSetLinkage(f, LLVMExternalLinkage), LLVMSetVisibility(f, LLVMHiddenVisibility);
}

#define PIPELINE "default<O2>"
static bool unit_optimise(Unit *u)
{
    if (LLVMVerifyModule(u->m, LLVMReturnStatusAction, &u->error)) return false;
    LLVMDisposeMessage(u->error), u->error = NULL;
    LLVMPassBuilderOptionsRef o = LLVMCreatePassBuilderOptions();
    LLVMPassBuilderOptionsSetLoopVectorization(o, 0), LLVMPassBuilderOptionsSetSLPVectorization(o, 0);
    LLVMPassBuilderOptionsSetLoopUnrolling(o, 0); /* the schedule has decided all three */
    LLVMErrorRef e = LLVMRunPasses(u->m, PIPELINE, u->tm, o);
    LLVMDisposePassBuilderOptions(o);
    if (!e) return module_repair(u->m), functions_hide(u->m), true;
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

static void add_job(Unit *u, const LlvmJob *job)
{
    Arena mem = {0};
    llvm_emit(u->m, job, &mem);
    arena_drop(&mem);
}

/* Everything that decides which object comes out. */
static CacheKey unit_key(const Unit *u)
{
    unsigned version[3];
    char maker[96];
    LLVMMemoryBufferRef code = LLVMWriteBitcodeToMemoryBuffer(u->m);
    CacheKey whole[2] = {cache_key(LLVMGetBufferStart(code), LLVMGetBufferSize(code))};
    LLVMDisposeMemoryBuffer(code);
    LLVMGetVersion(&version[0], &version[1], &version[2]);
    int n = snprintf(maker, sizeof maker, "LLVM %u.%u.%u " PIPELINE " O3 pic hidden", version[0], version[1], version[2]);
    whole[1] = cache_key(maker, (size_t)n);
    return cache_key(whole, sizeof whole);
}

/* ---- many jobs ---- */
typedef struct Pool {
    Arena *mem;
    Diag *diag;
    const LlvmJob *job;
    uint32_t jobs;
    Cache *cache;
    Bytes *object;          /* per job, under any_name */
    CacheKey *made_of;      /* per job: its IR */
    uint32_t *first, *seen; /* per job: the one that compiles it; the jobs that do */
    uint32_t seens;
    atomic_uint next;
    bool failed;
    pthread_mutex_t lock; /* kernels' pools, and everything here but `next` */
} Pool;
static const char any_name[] = "kernel";

static bool unit_object(Unit *u, CacheKey key, Cache *cache, Arena *mem, Bytes *object)
{
    LLVMMemoryBufferRef made = NULL;
    if (cache && cache_get(cache, key, mem, object)) return true;
    if (!unit_optimise(u) || !unit_emit(u, LLVMObjectFile, &made)) return false;
    size_t size = LLVMGetBufferSize(made);
    *object = (Bytes){arena_copy(mem, LLVMGetBufferStart(made), size), size};
    LLVMDisposeMemoryBuffer(made);
    if (cache) cache_put(cache, key, *object);
    return true;
}

/* Takes the job, or leaves it to the one that is made of the same. */
static bool job_claim(Pool *p, uint32_t i, CacheKey made_of)
{
    p->made_of[i] = made_of;
    for (uint32_t s = 0; s < p->seens; s++)
        if (cache_keys_equal(p->made_of[p->seen[s]], made_of)) return p->first[i] = p->seen[s], false;
    p->seen[p->seens++] = i, p->first[i] = i;
    return true;
}

static void job_compile(Pool *p, Unit *u, uint32_t i)
{
    const LlvmJob *job = &p->job[i];
    LlvmJob same = {job->kernel, job->target, any_name, job->small};
    Arena scratch = {0};
    Bytes object = {0};
    module_open(u, job->target);
    pthread_mutex_lock(&p->lock);
    add_job(u, &same);
    CacheKey key = unit_key(u);
    bool mine = job_claim(p, i, key);
    pthread_mutex_unlock(&p->lock);
    bool ok = !mine || unit_object(u, key, p->cache, &scratch, &object);
    pthread_mutex_lock(&p->lock);
    if (mine && ok) p->object[i] = (Bytes){arena_copy(p->mem, object.at, object.n), object.n};
    if (!ok) p->failed = !unit_report(u, p->diag, job);
    pthread_mutex_unlock(&p->lock);
    module_close(u);
    arena_drop(&scratch);
}

/* Equal objects become the first of them, whatever thread made which, under the name of its job. */
static void objects_name(const Pool *p, Arena *mem, Bytes *to)
{
    Arena scratch = {0};
    CacheKey *key = NEW_ARRAY(&scratch, CacheKey, p->jobs);
    for (uint32_t i = 0; i < p->jobs; i++) {
        Bytes made = p->object[p->first[i]];
        uint32_t same = 0;
        key[i] = cache_key(made.at, made.n);
        while (!cache_keys_equal(key[same], key[i])) same++;
        to[i] = same < i ? to[same] : object_rename(mem, made, any_name, p->job[i].symbol);
    }
    arena_drop(&scratch);
}

static void *work(void *pool)
{
    Pool *p = pool;
    Unit u = {0};
    u.tm = machine_new(p->job->target, &u.error); /* all levels of an artefact are of one architecture */
    for (uint32_t i; u.tm && (i = atomic_fetch_add(&p->next, 1)) < p->jobs;) job_compile(p, &u, i);
    if (!u.tm) {
        pthread_mutex_lock(&p->lock);
        p->failed = !unit_report(&u, p->diag, p->job);
        pthread_mutex_unlock(&p->lock);
    }
    unit_close(&u);
    return NULL;
}

bool llvm_compile(Arena *mem, Diag *diag, const LlvmJob *job, uint32_t jobs, int threads, Cache *cache, Bytes **objects)
{
    enum { MAX_THREADS = 256 };
    Pool p = {.mem = mem, .diag = diag, .job = job, .jobs = jobs, .cache = cache};
    pthread_t thread[MAX_THREADS];
    int started = 0, want = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    if ((uint32_t)want > jobs) want = (int)jobs;
    Arena scratch = {0};
    *objects = NEW_ARRAY(mem, Bytes, jobs + 1);
    if (!jobs) return true;
    p.mem = &scratch, p.object = NEW_ARRAY(&scratch, Bytes, jobs), p.made_of = NEW_ARRAY(&scratch, CacheKey, jobs);
    p.first = NEW_ARRAY(&scratch, uint32_t, jobs), p.seen = NEW_ARRAY(&scratch, uint32_t, jobs);
    pthread_mutex_init(&p.lock, NULL);
    while (started < want - 1 && !pthread_create(&thread[started], NULL, work, &p)) started++;
    work(&p);
    while (started) pthread_join(thread[--started], NULL);
    pthread_mutex_destroy(&p.lock);
    if (!p.failed) objects_name(&p, mem, *objects);
    arena_drop(&scratch);
    return !p.failed;
}

bool llvm_text(Arena *mem, Diag *diag, const LlvmJob *job, bool assembly, const char **text)
{
    Unit u;
    LLVMMemoryBufferRef out = NULL;
    bool ok = unit_open(&u, job->target);
    if (ok) add_job(&u, job);
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
    if (ok) add_job(&u, &named);
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
