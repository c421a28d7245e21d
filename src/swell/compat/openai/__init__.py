"""OpenAI's Images API below `/openai/v1`: generations, edits, streamed previews, and models.

Fields that OpenAI does not define (`extra_body`) are inputs of the model.

Source:
    The OpenAPI description of OpenAI's API and openai-python 3.57.0, November 2026.
"""
