-- The outermost filter for calls under /v1/. What they answer leaves here in OpenAI's shapes:
--   errors of every kind    {"error": {"message", "type", "param", "code", and, not OpenAI's, "status", "details"}}, with Retry-After
--                           where the server knows when
--   GET /v1/models[/NAME]   OpenAI's list of models, or one, made of /v1/fresco/models
--   /v1/fresco/generate     server-sent events; an error that comes after the first is an event "error". The transcoder alone leaves
--                           it in trailers, which no browser shows, so the filter grpc_web, told that the caller speaks
--                           gRPC-Web, writes the trailers into the body as a last frame, and this makes an event of it. events.lua
--                           takes the disguise off again before the transcoder sees the request.
-- Bodies that are read here are errors and lists of models: small. Nothing here can fail a call: what is not understood passes as it is.

local METADATA = "fresco.edge"

-- ---- JSON ----------------------------------------------------------------------------------------------------------

-- Stands for null in what decode returns.
local NULL = {}
-- Under which decode keeps the text of a member "details".
local RAW_DETAILS = {}
local DEPTH = 32
local ESCAPES = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/"}

-- The UTF-8 bytes of a code point.
local function utf8_of(point)
  if point < 0x80 then return string.char(point) end
  if point < 0x800 then return string.char(0xC0 + math.floor(point / 64), 0x80 + point % 64) end
  if point < 0x10000 then
    return string.char(0xE0 + math.floor(point / 4096), 0x80 + math.floor(point / 64) % 64, 0x80 + point % 64)
  end
  return string.char(0xF0 + math.floor(point / 262144), 0x80 + math.floor(point / 4096) % 64,
    0x80 + math.floor(point / 64) % 64, 0x80 + point % 64)
end

-- Each reader takes the text and where to begin; it returns a value and where to go on, or raises an error.
local read_value

local function read_string(text, at)
  local parts = {}
  while true do
    local plain, stop = text:match('^([^"\\]*)()', at)
    parts[#parts + 1] = plain
    local mark = text:sub(stop, stop)
    if mark == '"' then return table.concat(parts), stop + 1 end
    if mark == "" then error("unfinished string") end
    local escape = text:sub(stop + 1, stop + 1)
    if escape == "u" then
      local point = tonumber(text:match("^%x%x%x%x", stop + 2) or error("bad escape"), 16)
      at = stop + 6
      local low = point >= 0xD800 and point < 0xDC00 and text:match("^\\u([dD][c-fC-F]%x%x)", at)
      if low then
        point = 0x10000 + (point - 0xD800) * 1024 + tonumber(low, 16) - 0xDC00
        at = at + 6
      end
      parts[#parts + 1] = utf8_of(point)
    else
      parts[#parts + 1] = ESCAPES[escape] or error("bad escape")
      at = stop + 2
    end
  end
end

local function skip(text, at) return text:match("^[ \t\r\n]*()", at) end

local function read_array(text, at, depth)
  local items = {}
  at = skip(text, at)
  if text:sub(at, at) == "]" then return items, at + 1 end
  while true do
    items[#items + 1], at = read_value(text, at, depth)
    at = skip(text, at)
    local mark = text:sub(at, at)
    at = at + 1
    if mark == "]" then return items, at end
    if mark ~= "," then error("expected , or ]") end
  end
end

local function read_object(text, at, depth)
  local object = {}
  at = skip(text, at)
  if text:sub(at, at) == "}" then return object, at + 1 end
  while true do
    local key
    at = skip(text, at)
    if text:sub(at, at) ~= '"' then error("expected a key") end
    key, at = read_string(text, at + 1)
    at = skip(text, at)
    if text:sub(at, at) ~= ":" then error("expected :") end
    local from = skip(text, at + 1)
    object[key], at = read_value(text, from, depth)
    if depth == 1 and key == "details" then object[RAW_DETAILS] = text:sub(from, at - 1) end
    at = skip(text, at)
    local mark = text:sub(at, at)
    at = at + 1
    if mark == "}" then return object, at end
    if mark ~= "," then error("expected , or }") end
  end
end

function read_value(text, at, depth)
  if depth > DEPTH then error("too deep") end
  at = skip(text, at)
  local mark = text:sub(at, at)
  if mark == "{" then return read_object(text, at + 1, depth + 1) end
  if mark == "[" then return read_array(text, at + 1, depth + 1) end
  if mark == '"' then return read_string(text, at + 1) end
  local word, stop = text:match("^([%w%.%+%-]+)()", at)
  if word == "true" then return true, stop end
  if word == "false" then return false, stop end
  if word == "null" then return NULL, stop end
  return tonumber(word) or error("expected a value"), stop
end

-- The text's value if it is an object, else nil.
local function decode(text)
  local good, value, stop = pcall(read_value, text, 1, 0)
  if good and type(value) == "table" and skip(text, stop) > #text then return value end
  return nil
end

local function quote(text)
  local escaped = text:gsub('[%c"\\\127]', function(char)
    if char == '"' or char == "\\" then return "\\" .. char end
    return string.format("\\u%04x", char:byte())
  end)
  return '"' .. escaped .. '"'
end

local function quote_or_null(text)
  if text == nil then return "null" end
  return quote(text)
end

local function percent_decoded(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- ---- errors --------------------------------------------------------------------------------------------------------

-- By gRPC's codes: their names, OpenAI's types and codes.
local STATUS = {
  [1] = {"CANCELLED", "server_error", "cancelled"},
  [2] = {"UNKNOWN", "server_error", "internal_error"},
  [3] = {"INVALID_ARGUMENT", "invalid_request_error", "invalid_value"},
  [4] = {"DEADLINE_EXCEEDED", "server_error", "deadline_exceeded"},
  [5] = {"NOT_FOUND", "invalid_request_error", "not_found"},
  [6] = {"ALREADY_EXISTS", "invalid_request_error", "already_exists"},
  [7] = {"PERMISSION_DENIED", "invalid_request_error", "permission_denied"},
  [8] = {"RESOURCE_EXHAUSTED", "requests", "rate_limit_exceeded"},
  [9] = {"FAILED_PRECONDITION", "invalid_request_error", "failed_precondition"},
  [10] = {"ABORTED", "server_error", "aborted"},
  [11] = {"OUT_OF_RANGE", "invalid_request_error", "invalid_value"},
  [12] = {"UNIMPLEMENTED", "invalid_request_error", "unsupported"},
  [13] = {"INTERNAL", "server_error", "internal_error"},
  [14] = {"UNAVAILABLE", "server_error", "service_unavailable"},
  [15] = {"DATA_LOSS", "server_error", "data_loss"},
  [16] = {"UNAUTHENTICATED", "invalid_request_error", "invalid_api_key"},
}

-- What Envoy answered before there was a gRPC call, by HTTP's status.
local HTTP = {
  [400] = {"INVALID_ARGUMENT", "invalid_request_error", "invalid_json"},
  [404] = {"NOT_FOUND", "invalid_request_error", "unknown_url"},
  [408] = {"DEADLINE_EXCEEDED", "server_error", "deadline_exceeded"},
  [413] = {"INVALID_ARGUMENT", "invalid_request_error", "request_too_large"},
  [415] = {"INVALID_ARGUMENT", "invalid_request_error", "unsupported_media_type"},
  [429] = STATUS[8],
  [503] = STATUS[14],
  [504] = STATUS[4],
}

-- Of a status's details: the first field that was wrong, and the seconds to wait, rounded up; either may be nil.
local function read_details(details)
  local field, delay
  for _, detail in ipairs(type(details) == "table" and details or {}) do
    local violations = type(detail) == "table" and (detail.field_violations or detail.fieldViolations)
    if type(violations) == "table" and type(violations[1]) == "table" then field = field or violations[1].field end
    local seconds = type(detail) == "table" and (detail.retry_delay or detail.retryDelay)
    if type(seconds) == "string" then delay = delay or tonumber((seconds:gsub("s$", ""))) end
  end
  return type(field) == "string" and field or nil, delay and math.max(1, math.ceil(delay))
end

-- The JSON of an error: STATUS's or HTTP's names for it, a message, the field that was wrong, what was called, and google.rpc.Status's details
-- as JSON; the last three may be nil. The access log gets its code.
local function error_of(handle, names, message, field, kind, details)
  local status, class, code = names[1], names[2], names[3]
  if status == "NOT_FOUND" and kind ~= "cancel" and code == "not_found" then
    code, field = "model_not_found", field or "model"
  end
  handle:streamInfo():dynamicMetadata():set(METADATA, "error", code)
  return string.format('{"error":{"message":%s,"type":%s,"param":%s,"code":%s,"status":%s%s}}', quote(message), quote(class),
    quote_or_null(field), quote(code), quote(status), details and ',"details":' .. details or "")
end

-- The field that a transcoder's complaint about a value is about: "n: invalid value …"
local function field_of_complaint(text) return text:match("^([%a_][%w_%.]*): ") or text:match("^%(([%a_][%w_%.]*)%)") end

-- The text of an answer that failed: its body, or, where grpc_web thinks that the caller speaks gRPC-Web, what it has put into a header.
local function failed_text(handle, body)
  local headers = handle:headers()
  local moved = headers:get("grpc-message")
  for _, name in ipairs({"grpc-status", "grpc-message", "grpc-status-details-bin"}) do headers:remove(name) end
  if body:length() > 0 then return body:getBytes(0, body:length()) end
  return percent_decoded(moved or "")
end

-- Replaces an answer's body. What handle:headers() gave before a body was awaited is not to be used after.
local function answer_json(handle, body, json)
  local headers = handle:headers()
  headers:replace("content-type", "application/json")
  headers:replace("content-length", tostring(body:setBytes(json)))
end

-- Rewrites an answer that failed.
local function rewrite_error(handle, kind)
  local body = handle:body(true)
  local headers = handle:headers()
  local http = tonumber(headers:get(":status"))
  local text = failed_text(handle, body)
  local status = decode(text)
  if status and type(status.code) == "number" and STATUS[status.code] then
    local field, delay = read_details(status.details)
    if delay and not headers:get("retry-after") then headers:add("retry-after", tostring(delay)) end
    -- OpenAI's clients would send it again, as they do after every 409: an id that another request has stays taken.
    if STATUS[status.code][1] == "ALREADY_EXISTS" then headers:replace("x-should-retry", "false") end
    answer_json(handle, body, error_of(handle, STATUS[status.code], type(status.message) == "string" and status.message or "", field, kind,
      status[RAW_DETAILS]))
  elseif not (status and type(status.error) == "table") then  -- else it is so already
    answer_json(handle, body, error_of(handle, HTTP[http] or (http < 500 and HTTP[400] or STATUS[13]), text, field_of_complaint(text), kind))
  end
end

-- ---- models --------------------------------------------------------------------------------------------------------

local function model_json(model)
  return string.format('{"id":%s,"object":"model","created":0,"owned_by":"fresco"}', quote(model.name))
end

-- Rewrites the answer of ListModels: all models, or the one that was asked for.
local function rewrite_models(handle, wanted)
  local body = handle:body(true)
  local answer = decode(body:length() > 0 and body:getBytes(0, body:length()) or "")
  if not answer then return end
  local found, one = {}, nil
  for _, model in ipairs(type(answer.models) == "table" and answer.models or {}) do
    if type(model) == "table" and type(model.name) == "string" then
      found[#found + 1] = model_json(model)
      if model.name == wanted then one = found[#found] end
    end
  end
  local json = one or '{"object":"list","data":[' .. table.concat(found, ",") .. "]}"
  if wanted ~= "" and not one then
    handle:headers():replace(":status", "404")
    json = error_of(handle, STATUS[5], "There is no model " .. wanted .. "; GET /v1/models lists those that exist.", "model", "models")
  end
  answer_json(handle, body, json)
end

-- ---- server-sent events --------------------------------------------------------------------------------------------

-- An event of gRPC-Web's last frame; nothing when all went well.
local function last_event(handle, frame, kind)
  local code = tonumber(frame:match("grpc%-status:%s*(%d+)"))
  if code == 0 then return "" end
  local message = percent_decoded(frame:match("grpc%-message:%s*([^\r\n]*)") or "")
  return "event: error\ndata: " .. error_of(handle, STATUS[code] or STATUS[2], message, nil, kind) .. "\n\n"
end

local function rewrite_events(handle, kind)
  local headers = handle:headers()
  headers:replace("content-type", "text/event-stream")
  headers:replace("cache-control", "no-store")
  headers:replace("x-accel-buffering", "no")  -- for an nginx before this
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    -- The first byte of a last frame, which begins no event.
    if size > 5 and chunk:getBytes(0, 1):byte() == 0x80 then chunk:setBytes(last_event(handle, chunk:getBytes(5, size - 5), kind)) end
  end
end

-- ---- the filter ----------------------------------------------------------------------------------------------------

local KINDS = {["/v1/fresco/generate"] = "events", ["/v1/fresco/cancel"] = "cancel"}

-- A page on the web can make a browser send any other type without asking first, to a server on its own machine too.
local function refuse_unless_json(handle)
  local kind = (handle:headers():get("content-type") or ""):lower():match("^[^; ]*")
  if kind == "application/json" then return end
  handle:respond({[":status"] = "415", ["content-type"] = "application/json"},
    error_of(handle, HTTP[415], "Send the request as JSON, with the header content-type: application/json.", nil, "other"))
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path = (headers:get(":path") or ""):match("^[^?]*")
  if path:sub(1, 4) ~= "/v1/" or (headers:get("content-type") or ""):sub(1, 16) == "application/grpc" then return end
  local metadata = handle:streamInfo():dynamicMetadata()
  local method = headers:get(":method")
  if method == "POST" then refuse_unless_json(handle) end
  local model = method == "GET" and (path == "/v1/models" and "" or path:match("^/v1/models/([^/]+)$"))
  if model then
    metadata:set(METADATA, "model", percent_decoded(model))
    metadata:set(METADATA, "kind", "models")
    headers:replace(":path", "/v1/fresco/models")
    return
  end
  local kind = method == "POST" and KINDS[path] or "other"
  metadata:set(METADATA, "kind", kind)
  if kind == "events" then headers:replace("content-type", "application/grpc-web+proto") end
end

function envoy_on_response(handle)
  local call = handle:streamInfo():dynamicMetadata():get(METADATA)
  if not call then return end
  local status = tonumber(handle:headers():get(":status")) or 500
  if status >= 400 then
    rewrite_error(handle, call.kind)
  elseif call.kind == "models" then
    rewrite_models(handle, call.model or "")
  elseif call.kind == "events" then
    rewrite_events(handle, call.kind)
  end
end
