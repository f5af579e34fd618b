/* Whole programs on the CUDA side: what the golden kernels say, clustered, laid out, cut, scheduled for a GPU, printed as CUDA C, run on the
 * CPU behind tests/cuda/shim.h, and compared with the interpreter. So lowering and schedules stay free of LLVM. Where NVRTC is installed
 * the same texts must compile for a GPU. */
#include "codegen/cuda/cuda.h"
#include "tests/unit/kernel_runs.h"
#include <dirent.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

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

static void *library_of(const char *text)
{
    char folder[] = "/tmp/octet-cuda-XXXXXX", command[1000];
    cr_assert(mkdtemp(folder));
    char path[2][100];
    snprintf(path[0], sizeof path[0], "%s/octet_device.h", folder), snprintf(path[1], sizeof path[1], "%s/k.cc", folder);
    FILE *f = fopen(path[0], "w");
    fprintf(f, "#include \"tests/cuda/shim.h\"\n%s", cuda_prelude), fclose(f);
    f = fopen(path[1], "w");
    fputs(text, f), fclose(f);
    snprintf(command, sizeof command, "c++ -std=c++17 -O1 -w -fwrapv -ffp-contract=off -DOCTET_SHIM -I. -I%s -shared -fPIC -o %s/k.so %s/k.cc", folder,
             folder, folder);
    int rc = system(command);
    snprintf(command, sizeof command, "%s/k.so", folder);
    void *h = rc ? NULL : dlopen(command, RTLD_NOW);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert(system(command) == 0 && h, "the text does not compile");
    return h;
}

static void run_steps(Device *d, const char *prefix, void *library)
{
    void **at = program_memory(d->p);
    for (uint32_t i = 0; i < d->cut->steps; i++) {
        const struct CutStep *s = &d->cut->step[i];
        int64_t size[16];
        void *data[RUN_BUFS];
        int (*run)(const int64_t *, void *const *);
        void *symbol = dlsym(library, arena_printf(&d->p->mem, "run_%s_k%u", prefix, s->kernel));
        cr_assert(symbol, "%s: no kernel %u", prefix, s->kernel);
        memcpy(&run, &symbol, sizeof run);
        for (uint32_t k = 0; k < s->sizes; k++) cr_assert(dim_eval(d->p->dim, s->size[k], d->p->symbol, &size[k]));
        for (uint32_t b = 0; b < s->bufs; b++) data[b] = at[s->buf[b]];
        cr_assert_eq(run(size, data), 0, "%s: step %u", prefix, i);
    }
    program_compare(d->p, d->want, at, "CUDA");
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

Test(cuda_programs, on_the_shim, .timeout = 300)
{
    Programs all;
    if (system("c++ --version > /dev/null 2>&1") != 0) cr_skip_test("no C++ compiler");
    programs_load(&all);
    void *library = library_of(all.text);
    for (int i = 0; i < all.n; i++) run_steps(&all.device[i], all.prefix[i], library);
}

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
