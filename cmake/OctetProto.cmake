# frontend/onnx.proto -> onnx.pb-c.[ch] in the build folder.
set(proto ${CMAKE_CURRENT_SOURCE_DIR}/frontend/onnx.proto)
if(EXISTS ${proto})
  set(pb ${CMAKE_CURRENT_BINARY_DIR}/proto)
  file(MAKE_DIRECTORY ${pb})
  add_custom_command(OUTPUT ${pb}/onnx.pb-c.c ${pb}/onnx.pb-c.h DEPENDS ${proto}
    COMMAND ${OCTET_PROTOC_C} --c_out=${pb} --proto_path=${CMAKE_CURRENT_SOURCE_DIR}/frontend ${proto})
  set_source_files_properties(${pb}/onnx.pb-c.c PROPERTIES COMPILE_OPTIONS "-w")
  target_sources(octet_frontend PRIVATE ${pb}/onnx.pb-c.c ${pb}/onnx.pb-c.h)
  target_include_directories(octet_frontend SYSTEM PRIVATE ${pb})
endif()
