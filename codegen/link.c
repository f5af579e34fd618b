/* link.c - objects become the artefact: the system's linker is run in a folder of its own beside the output, and the
 * finished file is moved over the old one. Whatever happens, the folder goes.
 *
 * A shared object exports NAME_octet_api alone. An object or archive is one relocatable file whose other symbols
 * are made local, so that several models link into one program. */
#include "codegen/image.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
/* cmake/OctetRuntime.cmake embeds these. */
#define BLOB(name)                                                                                                     \
    extern const char octet_blob_##name[];                                                                             \
    extern const uint64_t octet_blob_##name##_size;
BLOB(rt)
BLOB(cpu)
BLOB(pool) BLOB(main)

    typedef struct Link {
    Image *im;
    Arena *mem;
    Diag *diag;
    const char *folder, *log;
    const char *why;          /* of a tool that failed */
    bool large;               /* weights of a gigabyte and more */
    VEC(const char *) file;   /* everything made in the folder, to be removed */
    VEC(const char *) object; /* of them, what the linker gets */
} Link;

/* ---- files in the folder ---- */
static const char *file_name(Link *l, const char *name)
{
    const char *path = arena_printf(l->mem, "%s/%s", l->folder, name);
    vec_push(l->mem, &l->file, path);
    return path;
}

static bool file_put(Link *l, const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f) return diag_error(l->diag, NULL, "cannot write %s: %s", path, strerror(errno));
    bool ok = fwrite(p, 1, n, f) == n;
    if (fclose(f) != 0) ok = false;
    return ok || diag_error(l->diag, NULL, "cannot write %s: %s", path, strerror(errno));
}

static bool object_put(Link *l, const char *name, const void *p, size_t n)
{
    const char *path = file_name(l, name);
    vec_push(l->mem, &l->object, path);
    return file_put(l, path, p, n);
}

static bool tables_put(Link *l, const Elf *e)
{
    const char *path = file_name(l, "tables.o");
    vec_push(l->mem, &l->object, path);
    FILE *f = fopen(path, "wb");
    if (!f) return diag_error(l->diag, NULL, "cannot write %s: %s", path, strerror(errno));
    bool ok = elf_write(e, f);
    if (fclose(f) != 0) ok = false;
    return ok || diag_error(l->diag, NULL, "cannot write %s: %s", path, strerror(errno));
}

static bool objects_put(Link *l, const Elf *e)
{
    Image *im = l->im;
    bool ok = tables_put(l, e);
    for (uint32_t i = 0; i < im->objects && ok; i++)
        ok = object_put(l, arena_printf(l->mem, "k%u.o", (unsigned)i), im->object[i].at, im->object[i].n);
    ok = ok && object_put(l, "rt.o", octet_blob_rt, octet_blob_rt_size) &&
         object_put(l, "cpu.o", octet_blob_cpu, octet_blob_cpu_size);
    if (ok && im->options->max_threads != 1) ok = object_put(l, "pool.o", octet_blob_pool, octet_blob_pool_size);
    if (ok && im->options->kind == ARTEFACT_EXECUTABLE)
        ok = object_put(l, "main.o", octet_blob_main, octet_blob_main_size);
    return ok;
}

/* ---- running tools ---- */
typedef VEC(const char *) Words;

static void words_add(Arena *mem, Words *w, const char *text) /* separated by single spaces */
{
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, " ");
        vec_push(mem, w, arena_text(mem, p, n));
        p += n + (p[n] == ' ');
    }
}

static const char *log_text(const Link *l)
{
    char line[2000];
    FILE *f = fopen(l->log, "rb");
    size_t n = f ? fread(line, 1, sizeof line, f) : 0;
    if (f) fclose(f);
    while (n && (line[n - 1] == '\n' || line[n - 1] == ' ')) n--;
    return arena_text(l->mem, line, n);
}

typedef enum ToolResult { TOOL_DONE, TOOL_MISSING, TOOL_FAILED } ToolResult;

static ToolResult tool_failed(Link *l, const char *program, const char *why)
{
    l->why = arena_printf(l->mem, "%s failed: %s", program, why);
    return TOOL_FAILED;
}

static ToolResult tool_wait(Link *l, const char *program, pid_t child)
{
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return tool_failed(l, program, strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return TOOL_DONE;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127 && !*log_text(l)) return TOOL_MISSING;
    return tool_failed(l, program, log_text(l));
}

static ToolResult tool_run(Link *l, const Words *w)
{
    posix_spawn_file_actions_t files;
    int log = open(l->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (log < 0) return tool_failed(l, w->at[0], arena_printf(l->mem, "%s: %s", l->log, strerror(errno)));
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, log, 1);
    posix_spawn_file_actions_adddup2(&files, log, 2);
    char **argv = NEW_ARRAY(l->mem, char *, w->n + 1);
    for (uint32_t i = 0; i < w->n; i++) argv[i] = (char *)(uintptr_t)w->at[i];
    pid_t child;
    int error = posix_spawnp(&child, argv[0], &files, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&files);
    close(log);
    if (error == ENOENT) return TOOL_MISSING;
    return error ? tool_failed(l, argv[0], strerror(error)) : tool_wait(l, argv[0], child);
}

/* A task and the programs that can do it, tried in order until one is there. $OUT, $NAME, $SO, $MAP and $OBJECTS are
 * filled in. */
typedef struct Tool {
    const char *program, *arguments;
} Tool;
#define HARDEN "-z relro -z now -z noexecstack --build-id=none --gc-sections --hash-style=gnu --as-needed"
#define HARDEN_CC                                                                                                      \
    "-Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack -Wl,--build-id=none -Wl,--gc-sections -Wl,--hash-style=gnu "           \
    "-Wl,--as-needed"
#define LD_SHARED                                                                                                      \
    "-shared " HARDEN " -soname $SO --version-script $MAP -o $OUT $OBJECTS -L/lib64 -L/usr/lib64 "                     \
    "-L/lib/x86_64-linux-gnu -L/usr/lib/x86_64-linux-gnu -lm -lc"
static const Tool link_shared[] = {{"cc", "-shared -nostartfiles " HARDEN_CC
                                          " -Xlinker -soname=$SO -Xlinker --version-script=$MAP -o $OUT $OBJECTS -lm -lpthread"},
                                   {"ld.lld-22", LD_SHARED},
                                   {"ld.lld", LD_SHARED},
                                   {"ld", LD_SHARED},
                                   {NULL, NULL}};
#define CC_PROGRAM "-pie " HARDEN_CC " -o $OUT $OBJECTS -lm -lpthread"
static const Tool link_program[] = {{"cc", CC_PROGRAM}, {"gcc", CC_PROGRAM}, {"clang", CC_PROGRAM}, {NULL, NULL}};
#define LD_OBJECT "-r -o $OUT $OBJECTS"
static const Tool link_object[] = {{"ld", LD_OBJECT}, {"ld.lld-22", LD_OBJECT}, {"ld.lld", LD_OBJECT}, {NULL, NULL}};
#define KEEP "--keep-global-symbol=$NAME_octet_api $OUT"
static const Tool localise[] = {{"objcopy", KEEP}, {"llvm-objcopy-22", KEEP}, {"llvm-objcopy", KEEP}, {NULL, NULL}};
#define AR "rcsD $OUT $OBJECTS"
static const Tool archive[] = {{"ar", AR}, {"llvm-ar-22", AR}, {"llvm-ar", AR}, {NULL, NULL}};

/* GNU ld puts .lrodata behind the writable data and so into a writable segment. Before everything else it is
 * read-only, and code keeps its distance to what it addresses. */
static const char large_script[] = "SECTIONS { .lrodata : { *(.lrodata .lrodata.*) } } INSERT BEFORE .dynsym;\n";

typedef struct Fill {
    const char *out, *so, *map, *large;
} Fill; /* large: a linker script, or NULL */

static void word_fill(Link *l, Words *to, const char *word, const Fill *f)
{
    struct {
        const char *key, *value;
    } keys[] = {{"$OUT", f->out}, {"$SO", f->so}, {"$MAP", f->map}, {"$NAME", l->im->name}};
    if (!strcmp(word, "$OBJECTS")) {
        for (uint32_t i = 0; i < l->object.n; i++) vec_push(l->mem, to, l->object.at[i]);
        bool plain = !strncmp(to->at[0], "ld", 2); /* the linker itself, not a compiler that calls it */
        if (f->large && !plain) vec_push(l->mem, to, "-Xlinker"); /* -Wl would end a path at its first comma */
        if (f->large) vec_push(l->mem, to, arena_printf(l->mem, "-T%s", f->large));
        return;
    }
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        const char *p = strstr(word, keys[i].key);
        if (!p) continue;
        word = arena_printf(l->mem, "%.*s%s%s", (int)(p - word), word, keys[i].value, p + strlen(keys[i].key));
        break;
    }
    vec_push(l->mem, to, word);
}

static bool task_run(Link *l, const Tool *tool, const char *what, const Fill *f)
{
    const char *tried = "";
    for (; tool->program; tool++) {
        Words words = {0}, plain = {0};
        vec_push(l->mem, &words, tool->program);
        words_add(l->mem, &plain, tool->arguments);
        for (uint32_t i = 0; i < plain.n; i++) word_fill(l, &words, plain.at[i], f);
        ToolResult r = tool_run(l, &words);
        if (r == TOOL_DONE) return true;
        if (r == TOOL_FAILED) return diag_error(l->diag, NULL, "%s: %s", what, l->why);
        tried = arena_printf(l->mem, "%s%s%s", tried, *tried ? ", " : "", tool->program);
    }
    return diag_error(l->diag, NULL, "%s: none of these programs is installed: %s", what, tried);
}

/* ---- the four kinds ---- */
static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool large_option(Link *l, Fill *f)
{
    if (!l->large) return true;
    const char *path = file_name(l, "large.ld");
    f->large = path;
    return file_put(l, path, large_script, sizeof large_script - 1);
}

static bool make_shared(Link *l, const char *to)
{
    Fill f = {.out = to, .so = base_name(l->im->options->out), .map = file_name(l, "exports")};
    if (!large_option(l, &f)) return false;
    const char *map = arena_printf(l->mem, "{ global: %s_octet_api; local: *; };\n", l->im->name);
    return file_put(l, f.map, map, strlen(map)) && task_run(l, link_shared, "linking", &f);
}

static bool make_program(Link *l, const char *to)
{
    Fill f = {.out = to};
    return large_option(l, &f) && task_run(l, link_program, "linking", &f);
}

static bool make_object(Link *l, const char *to)
{
    Fill f = {.out = to};
    return task_run(l, link_object, "linking", &f) && task_run(l, localise, "making symbols local", &f);
}

static bool make_archive(Link *l, const char *to)
{
    const char *member = file_name(l, arena_printf(l->mem, "%s.o", l->im->name));
    if (!make_object(l, member)) return false;
    l->object.n = 0;
    vec_push(l->mem, &l->object, member);
    return task_run(l, archive, "making the archive", &(Fill){.out = to});
}

static bool (*const makers[])(Link *, const char *) = {[ARTEFACT_SO] = make_shared,
                                                       [ARTEFACT_OBJECT] = make_object,
                                                       [ARTEFACT_ARCHIVE] = make_archive,
                                                       [ARTEFACT_EXECUTABLE] = make_program};

static bool link_all(Link *l, const Elf *e)
{
    const CodegenOptions *o = l->im->options;
    const char *made = file_name(l, "made"), *header = file_name(l, "header"), *beside = header_path(l->mem, o->out);
    bool has_header = o->kind != ARTEFACT_EXECUTABLE;
    if (!objects_put(l, e) || !makers[o->kind](l, made)) return false;
    FILE *f = has_header ? fopen(header, "wb") : NULL;
    if (has_header) {
        bool ok = f && header_write(l->im, f);
        if (f && fclose(f) != 0) ok = false;
        if (!ok) return diag_error(l->diag, NULL, "cannot write %s: %s", beside, strerror(errno));
    }
    if (has_header && rename(header, beside) != 0)
        return diag_error(l->diag, NULL, "cannot write %s: %s", beside, strerror(errno));
    if (rename(made, o->out) == 0) return true;
    int error = errno;
    if (has_header) unlink(beside);
    return diag_error(l->diag, NULL, "cannot write %s: %s", o->out, strerror(error));
}

bool artefact_link(Image *im, const Elf *tables)
{
    struct stat st;
    if (!stat(im->options->out, &st) && !S_ISREG(st.st_mode)) /* a rename would put the artefact in a device's place */
        return diag_error(im->diag, NULL, "cannot write %s: it exists and is no regular file", im->options->out);
    char *folder = arena_printf(im->mem, "%s.XXXXXX", im->options->out);
    if (!mkdtemp(folder)) return diag_error(im->diag, NULL, "cannot write %s: %s", im->options->out, strerror(errno));
    Link l = {.im = im, .mem = im->mem, .diag = im->diag, .folder = folder, .large = elf_is_large(tables)};
    l.log = file_name(&l, "log");
    bool ok = link_all(&l, tables);
    for (uint32_t i = 0; i < l.file.n; i++) unlink(l.file.at[i]);
    rmdir(folder);
    return ok;
}
