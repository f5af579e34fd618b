/* Golden kernels: tests/golden/kernel/NAME.txt holds a program and what becomes of it: clustered, forked and laid out, cut into kernels with their
 * schedules for AVX-512 and, for the first of them, the loops. BLESS=1 writes what is now. */
#include "tests/unit/kernel_runs.h"
#include <dirent.h>
#include <stdlib.h>

#define FOLDER "tests/golden/kernel"
static const char *const line = "--------\n";

static char *file_text(const char *path)
{
    enum { MOST = 1 << 20 };
    FILE *f = fopen(path, "r");
    cr_assert(f, "%s", path);
    char *text = calloc(1, MOST);
    size_t n = fread(text, 1, MOST - 1, f);
    cr_assert(n < MOST - 1);
    fclose(f);
    return text;
}

static char *golden_text(const char *source)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    Program *p = program_new(source);
    program_cluster(p->k);
    program_fork(p->k);
    program_layout(p->k, NULL);
    program_widen(p->k, true);
    program_check(p->k, "layout");
    kernel_print(p->k, f);
    Cut *c = program_cut(p->k, &p->mem);
    for (uint32_t i = 0; i < c->kernel.n; i++) {
        Kernel k = *c->kernel.at[i];
        const char *error = NULL;
        tune(&k, target_find("avx512"), false);
        fputs(line, f);
        kernel_print(&k, f);
        Kernel *s = schedule_apply(&k, &error);
        cr_assert(s, "%s", error);
        if (i == 0) loops_print(s, s->loops, 1, f);
    }
    fclose(f);
    program_drop(p);
    return text;
}

Test(golden_kernel, files)
{
    DIR *d = opendir(FOLDER);
    int files = 0;
    cr_assert(d, "run from the source folder");
    for (struct dirent *e; (e = readdir(d));) {
        char path[512];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, FOLDER "/%s", e->d_name);
        char *have = file_text(path), *cut = strstr(have, line), *want = cut ? cut + strlen(line) : have + strlen(have);
        if (cut) *cut = 0;
        char *now = golden_text(have);
        if (getenv("BLESS")) {
            FILE *f = fopen(path, "w");
            fprintf(f, "%s%s%s", have, line, now);
            fclose(f);
        } else {
            cr_assert_str_eq(now, want, "%s (BLESS=1 accepts)", path);
        }
        free(now), free(have);
        files++;
    }
    closedir(d);
    cr_assert_gt(files, 0);
}
