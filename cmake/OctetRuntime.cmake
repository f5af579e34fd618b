# runtime/*.c: what ships inside artefacts. Compiled once with flags of its own (no sanitizer of the compiler's build may end up in a
# user's program) and embedded into liboctet as bytes: octet_blob_NAME[] and octet_blob_NAME_size for rt, pool, main and the
# text of octet.h. The same sources are also part of liboctet, which runs artefacts and asks for the CPU's features.
set(runtime ${CMAKE_CURRENT_SOURCE_DIR}/runtime)
set(blobs ${CMAKE_CURRENT_BINARY_DIR}/runtime)
file(MAKE_DIRECTORY ${blobs})
set(flags -std=c11 -D_GNU_SOURCE -O2 -fPIC -fvisibility=hidden -ffunction-sections -fno-asynchronous-unwind-tables
  -ffile-prefix-map=${CMAKE_CURRENT_SOURCE_DIR}/= -ffp-contract=off -Wall -Wextra -I${runtime}/include)
set(headers ${runtime}/include/octet.h ${runtime}/model.h ${runtime}/team.h ${runtime}/cpus.h)
set(assembly ${blobs}/blobs.S)
set(text "")
set(files "")
macro(octet_blob name file)
  string(APPEND text ".globl octet_blob_${name}\n.globl octet_blob_${name}_size\n.hidden octet_blob_${name}\n.hidden octet_blob_${name}_size\n"
    ".balign 64\noctet_blob_${name}:\n.incbin \"${file}\"\n0:\n.balign 8\noctet_blob_${name}_size:\n.quad 0b - octet_blob_${name}\n")
  list(APPEND files ${file})
endmacro()
foreach(name rt cpu pool main)
  add_custom_command(OUTPUT ${blobs}/${name}.o DEPENDS ${runtime}/${name}.c ${headers} WORKING_DIRECTORY ${runtime}
    COMMAND ${CMAKE_C_COMPILER} ${flags} -c ${name}.c -o ${blobs}/${name}.o VERBATIM)
  octet_blob(${name} ${blobs}/${name}.o)
endforeach()
octet_blob(header ${runtime}/include/octet.h)
file(CONFIGURE OUTPUT ${assembly} CONTENT ".section .rodata\n${text}.section .note.GNU-stack,\"\",@progbits\n" @ONLY)
set_source_files_properties(${assembly} PROPERTIES OBJECT_DEPENDS "${files}" COMPILE_OPTIONS "-w")
target_sources(octet_codegen PRIVATE ${assembly} ${runtime}/rt.c ${runtime}/cpu.c ${runtime}/pool.c)
