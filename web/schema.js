// Writes the types of the API: `python -m swell.server.openapi | node web/schema.js`.
import { text } from "node:stream/consumers";
import openapiTS, { astToString } from "openapi-typescript";

const api = JSON.parse(await text(process.stdin));
// A field with a default is optional in a request and always present in an answer.
for (const [name, schema] of Object.entries(api.components.schemas)) {
  if (name.endsWith("Request")) for (const field of Object.values(schema.properties)) delete field.default;
}
// The client reads errors and headers by itself.
for (const operation of Object.values(api.paths).flatMap(Object.values)) {
  operation.parameters = operation.parameters?.filter((each) => each.in !== "header");
  for (const [status, response] of Object.entries(operation.responses)) {
    delete response.headers;
    if (status >= "300") delete operation.responses[status];
  }
}
const options = { rootTypes: true, rootTypesNoSchemaPrefix: true, emptyObjectsUnknown: true };
const types = astToString(await openapiTS(api, options));
process.stdout.write(`// Written by \`make docs\` from the route table. Change the route table instead.\n\n${types}`);
