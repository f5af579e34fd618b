/* Whole programs on the CUDA side: what the golden kernels say, clustered, laid out, cut, scheduled for a GPU, printed as CUDA C, run on the
 * CPU behind tests/cuda/shim.h, and compared with the interpreter. So lowering and schedules stay free of LLVM. Where there is a GPU they
 * run there too, and where NVRTC is installed the same texts must compile for one. */
#include "tests/unit/cuda_host.h"
#include "tests/unit/kernel_runs.h"
#include <dirent.h>

#define FOLDER "tests/golden/kernel"
typedef struct Device {
    Program *p;
    Cut *cut;
    void **want;
    Kernel **kernel; /* scheduled */
} Device;

static const char *source_of(const char *path)
{
    enum { MOST = 1 << 20 };
    static char text[MOST];
    FILE *f = fopen(path, "r");
    cr_assert(f, "%s", path);
    text[fread(text, 1, MOST - 1, f)] = 0;
    fclose(f);
    char *cut = strstr(text, "--------\n");
    if (cut) *cut = 0;
    return text;
}

/* Its kernels, each as run_<prefix>_k<i>. */
static Device device_new(const char *source, const char *prefix, FILE *text)
{
    Device d = {.p = program_new(source)};
    const Target *cuda = target_find("cuda");
    for (size_t i = 0; i < COUNT_OF(d.p->symbol); i++) d.p->symbol[i] = 5 + (int64_t)i;
    program_fill(d.p);
    d.want = program_reference(d.p);
    program_cluster(d.p->k), program_layout(d.p->k, NULL);
    d.cut = program_cut(d.p->k, &d.p->mem);
    d.kernel = NEW_ARRAY(&d.p->mem, Kernel *, d.cut->kernel.n);
    for (uint32_t i = 0; i < d.cut->kernel.n; i++) {
        Kernel tuned = *d.cut->kernel.at[i];
        const char *error = NULL;
        tune(&tuned, cuda, false);
        d.kernel[i] = schedule_apply(&tuned, &error);
        cr_assert(d.kernel[i], "%s: %s", prefix, error);
        cuda_emit(d.kernel[i], arena_printf(&d.p->mem, "%s_k%u", prefix, i), text);
    }
    return d;
}

static void run_steps(Device *d, const char *prefix, void *library)
{
    void **at = program_memory(d->p);
    for (uint32_t i = 0; i < d->cut->steps; i++) {
        const struct CutStep *s = &d->cut->step[i];
        int64_t size[16];
        void *data[RUN_BUFS];
        size_t bytes[RUN_BUFS];
        const char *name = arena_printf(&d->p->mem, "%s_k%u", prefix, s->kernel);
        for (uint32_t k = 0; k < s->sizes; k++) cr_assert(dim_eval(d->p->dim, s->size[k], d->p->symbol, &size[k]));
        for (uint32_t b = 0; b < s->bufs; b++)
            data[b] = at[s->buf[b]], bytes[b] = buffer_bytes(d->p->k, (int)s->buf[b], d->p->symbol) + SLACK;
        cr_assert_eq(cuda_host_run(library, name, size, data, bytes, s->bufs), 0, "%s: step %u", prefix, i);
    }
    program_compare(d->p, d->want, at, prefix);
}

enum { PROGRAMS = 32 };
typedef struct Programs {
    Device device[PROGRAMS];
    char prefix[PROGRAMS][64];
    int n;
    char *text;
} Programs;

static void programs_load(Programs *all)
{
    size_t bytes;
    memset(all, 0, sizeof *all);
    FILE *text = open_memstream(&all->text, &bytes);
    DIR *dir = opendir(FOLDER);
    cr_assert(dir, "run from the source folder");
    for (struct dirent *e; (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        if (n < 5 || strcmp(e->d_name + n - 4, ".txt") != 0) continue;
        char path[512], *prefix = all->prefix[all->n];
        cr_assert(all->n < PROGRAMS);
        snprintf(path, sizeof path, FOLDER "/%s", e->d_name);
        snprintf(prefix, 64, "%.*s", (int)(n - 4), e->d_name);
        all->device[all->n++] = device_new(source_of(path), prefix, text);
    }
    closedir(dir), fclose(text);
    cr_assert(all->n > 0);
}

static void programs_run(const CudaHost *host)
{
    Programs all;
    if (!cuda_host_present(host)) cr_skip_test("%s", host->absent);
    programs_load(&all);
    void *library = cuda_host_library(host, all.text);
    for (int i = 0; i < all.n; i++) run_steps(&all.device[i], all.prefix[i], library);
}

Test(cuda_programs, on_the_shim, .timeout = 300) { programs_run(&cuda_shim); }
Test(cuda_programs, on_a_gpu, .timeout = 300) { programs_run(&cuda_gpu); }

Test(cuda_programs, through_nvrtc, .timeout = 300)
{
    Programs all;
    Arena mem = {0};
    Diag diag = {.mem = &mem, .subject = "cuda"};
    Bytes code = {0};
    if (!nvrtc_present(NULL)) cr_skip_test("NVRTC is not installed");
    programs_load(&all);
    bool ok = nvrtc_compile(&mem, &diag, NULL, all.text, "compute_80", &code);
    if (!ok) diag_print(&diag, stderr);
    cr_assert(ok && code.n > 1000);
    arena_drop(&mem);
}
