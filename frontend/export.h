/* export.h - a Graph of ONNX operators written as an ONNX model: what `octet quantize` makes, for other engines and for us.
 *
 * Names of nodes, tensors, inputs, outputs and free sizes stay; what a pass added is named after what it stands beside. The operator sets
 * are those of the model, raised to what the operators in the graph need. Weights lie in the file, or beside it in OUT.data when
 * `external` is set or one file could not hold them (protobuf ends at 2 GB). The same graph gives the same bytes. */
#ifndef OCTET_EXPORT_H
#define OCTET_EXPORT_H
#include "frontend/import.h"

/* out "-": standard output. false: reported; then there is no file. */
bool export_model(const Graph *g, const Origin *origin, const char *out, bool external, Diag *d);
#endif
