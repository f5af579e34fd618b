/* api.c - the library's doors; see runtime/include/octet_compiler.h. */
#include "frontend/cli.h"
#include "octet_compiler.h"

#define VERSION "0.1.0"

static int usage(FILE *f, int code)
{
    fputs("usage: octet COMMAND [options]\n\n", f);
    for (uint32_t i = 0; command_at(i); i++) fprintf(f, "  %-9s %s\n", command_at(i)->name, command_at(i)->help);
    fputs("\noctet COMMAND --help lists a command's options. --version prints the version.\n", f);
    return code;
}

/* One command with its Diag; whoever calls prints or keeps the Diag's lines. */
static int execute(Arena *mem, Diag *d, const Command *c, int argc, const char *const *argv)
{
    Options o = {.mem = mem, .command = c};
    d->subject = "octet";
    if (!options_parse(&o, d, argc, argv)) return EXIT_USAGE;
    if (o.value[OPT_help]) return options_help(c, stdout), 0;
    return c->run(&o, d);
}

int octet_main(int argc, char **argv)
{
    Arena mem = {0};
    Diag d = {.mem = &mem, .subject = "octet"};
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) return usage(stderr, EXIT_USAGE);
    if (!strcmp(name, "--help") || !strcmp(name, "help")) return usage(stdout, 0);
    if (!strcmp(name, "--version")) return printf("octet %s\n", VERSION), 0;
    const Command *c = command_find(name);
    int code = EXIT_USAGE;
    if (c) code = execute(&mem, &d, c, argc - 2, (const char *const *)argv + 2);
    else diag_error(&d, NULL, "unknown command '%s' (octet --help lists them)", name);
    fflush(stdout);
    diag_print(&d, stderr);
    arena_drop(&mem);
    return code;
}

static void copy_lines(const Diag *d, char *text, size_t size)
{
    size_t n = 0;
    for (uint32_t i = 0; i < d->line.n && n + 1 < size; i++) {
        int more = snprintf(text + n, size - n, "%s%s", i ? "\n" : "", d->line.at[i]);
        n = more < 0 || (size_t)more >= size - n ? size - 1 : n + (size_t)more;
    }
    if (size) text[n] = 0;
}

int octet_compile(const char *model, const char *out, int options, const char *const *option, char *error,
                  size_t error_size)
{
    Arena mem = {0};
    Diag d = {.mem = &mem, .subject = ""};
    VEC(const char *) argv = {0};
    for (int i = 0; i < options; i++) vec_push(&mem, &argv, option[i]);
    vec_push(&mem, &argv, "-o"), vec_push(&mem, &argv, out);
    vec_push(&mem, &argv, "--"), vec_push(&mem, &argv, model);
    int code = execute(&mem, &d, command_find("compile"), (int)argv.n, argv.at);
    copy_lines(&d, error, error_size);
    arena_drop(&mem);
    return code;
}

const char *octet_version(void) { return VERSION; }
