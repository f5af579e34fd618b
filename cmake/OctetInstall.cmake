# make install: the command, the library, the headers, the Python module, the CMake package and the pkg-config file.
include(CMakePackageConfigHelpers)
install(TARGETS octet LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET octet_cli)
  install(TARGETS octet_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
file(GLOB public ${CMAKE_CURRENT_SOURCE_DIR}/runtime/include/*.h)
install(FILES ${public} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
# Where PYTHONPATH points: PREFIX/lib/octet/python
set(OCTET_PYTHON_DIR lib/octet/python CACHE STRING "Where the Python module goes, below the prefix")
install(DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/runtime/python/octet DESTINATION ${OCTET_PYTHON_DIR} FILES_MATCHING PATTERN "*.py")

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Octet)
configure_package_config_file(${CMAKE_CURRENT_SOURCE_DIR}/cmake/OctetConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/OctetConfig.cmake
  INSTALL_DESTINATION ${package} PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_BINDIR)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/OctetConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/OctetConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/OctetConfigVersion.cmake
  ${CMAKE_CURRENT_SOURCE_DIR}/cmake/OctetAddModel.cmake DESTINATION ${package})
# The prefix as seen from the file, so that `cmake --install --prefix` and moving the tree are fine.
file(RELATIVE_PATH prefix_from_pc /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(${CMAKE_CURRENT_SOURCE_DIR}/cmake/octet.pc.in ${CMAKE_CURRENT_BINARY_DIR}/octet.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/octet.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
